"""The model's own picture tokenizer as a benchmark: pictures through it and back.

Where pictures come from (scenes of the toybox, a folder), how a model is asked, and what a rebuilt
picture is worth beside the original. The original is the picture as the tokenizer took it, so that
what a resize loses is not counted. Beside `likelihood.py` the one module of this room that looks
inside a `unified.handle.Unified`; another kind of model brings its own `rebuild`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unified.eval.benchmark import Benchmark
from unified.eval.features import in_parts
from unified.eval.items import Data, Picture, Sample
from unified.eval.judge import facts_of
from unified.eval.metrics import around, frechet_distance, frechet_draws
from unified.eval.scoring import Context, Marks, Record, Reply, Value, mean, measured, slices, units
from unified.media.picture import MediaError, read
from unified.toybox.scene import render, sample_scene

SKILL = "reconstruction"
SPLITS = ("seen", "held_out")
SCENES = 256  # of a split
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
EXACT = 100.0  # dB, of a picture that comes back as it was

Pair = tuple[Image.Image, Image.Image]  # as the tokenizer took it, and rebuilt


# --- where pictures come from ------------------------------------------------------------------


def scenes(spec: Benchmark, seed: int, limit: int | None) -> Iterator[Sample]:
    """Scenes of the toybox, of things seen in training and held out of it, with all their facts."""
    count = SCENES * len(SPLITS) if limit is None else limit
    places = [(split, k) for k in range(-(-count // len(SPLITS))) for split in SPLITS][:count]
    for split, k in sorted(places, key=lambda place: SPLITS.index(place[0])):
        scene = sample_scene(random.Random(f"{seed}/{SKILL}/{split}/{k}"), split)
        name = f"{split}/{k}"
        shown = Picture(name, image=Image.fromarray(render(scene)))
        facts = {"request": facts_of(scene)}
        yield Sample(name, spec.ask(), SKILL, split, (shown,), facts, chance=0.0)


def folder(data: Data, spec: Benchmark) -> Iterator[Sample]:
    """Pictures at any depth of a folder, as ImageNet, COCO or a folder of one's own has them; a
    file that is no picture by its ending is not looked at."""
    found = [p for p in data.maybe("*") if p.suffix.lower() in ENDINGS and p.name[0] != "."]
    for number, path in enumerate(found):
        name = path.relative_to(data.folder).as_posix()
        yield Sample(f"{number:06d}", spec.ask(), SKILL, spec.data.split, (Picture(name, path),),
                     {"file": name})  # fmt: skip


# --- how a model is asked ----------------------------------------------------------------------


def can_rebuild(model: Any) -> bool:
    """Whether a model has a picture tokenizer that gives pictures back."""
    codec = getattr(model, "codec", None)
    own = callable(getattr(model, "rebuild", None))
    return own or (codec is not None and codec.decodes and hasattr(model, "processor"))


def settings(model: Any) -> dict[str, Any]:
    """What a rebuilt picture depends on beside the weights: the codec, and how it draws."""
    codec = getattr(model, "codec", None)
    if codec is None:
        return {}
    return {"codec": codec.kind, "codes": codec.spec.length, **getattr(codec, "sampling", {})}


def rebuilt(model: Any, images: Sequence[Image.Image]) -> list[Pair]:
    """Pictures through the model's picture tokenizer and back, all at once.

    Args:
        model: one that has `rebuild(images)`, or a `Unified`.
    """
    own = getattr(model, "rebuild", None)
    if own is not None:
        pairs: list[Pair] = own(list(images))
        return pairs
    import torch

    from unified.media.pixels import to_pictures

    taken = torch.stack([model.processor.image_processor.pixels(image) for image in images])
    with torch.inference_mode():
        codec = model.codec
        given = taken.to(codec.device)
        made = codec.decode(codec.encode(given)).cpu()
    both = (map(Image.fromarray, to_pictures(side)) for side in (taken, made))
    return list(zip(*both, strict=True))


# --- what it is worth --------------------------------------------------------------------------


def signal_to_noise(one: np.ndarray, two: np.ndarray) -> float:
    """PSNR in decibel of uint8 pictures of one shape; EXACT where they are equal."""
    squared = float(np.square((one.astype(np.float64) - two) / 255).mean())
    return min(EXACT, -10 * float(np.log10(squared))) if squared else EXACT


def similarity(one: np.ndarray, two: np.ndarray) -> float:
    """SSIM of uint8 pictures (H, W, 3), https://doi.org/10.1109/TIP.2003.819861."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    pixels = [torch.from_numpy(x.copy()).permute(2, 0, 1)[None].double() / 255 for x in (two, one)]
    return float(structural_similarity_index_measure(*pixels, data_range=1.0))


class Rebuilt:
    """PSNR and SSIM, meaned over pictures, and the Fréchet distance of the rebuilt ones from the
    originals on the judge's features, by whose name it goes. None is right or wrong, so there are
    no failures."""

    needs = "features"

    def mark(self, sample: Sample, reply: Reply, judge: Any) -> Marks:
        (given,), (made,) = reply.given, reply.pictures
        one, two = (np.asarray(image.convert("RGB")) for image in (given, made))
        return {"psnr": signal_to_noise(one, two), "ssim": similarity(one, two)}

    def wrong(self, sample: Sample) -> Marks:
        return {"psnr": 0.0, "ssim": 0.0}

    def rows(self, records: Sequence[Record], context: Context) -> Iterator[Value]:
        for split, skill, inside in slices(records):
            both = units(inside, lambda group: [group[0]["marks"][k] for k in ("psnr", "ssim")])
            for name, found in zip(("PSNR", "SSIM"), both.T, strict=True):
                yield measured(name, split, skill, found, mean, seed=context.seed)
            kept = [record for record in inside if record["files"]]
            if len(kept) > 1:
                yield self._distance(kept, context, skill, split)

    @staticmethod
    def _distance(records: Sequence[Record], context: Context, skill: str, split: str) -> Value:
        """Made pictures stand first among a record's files, originals second."""
        try:
            made, given = (
                in_parts(context.judge, (read(context.folder / r["files"][k]) for r in records))
                for k in (0, 1)
            )
        except MediaError as error:
            raise ValueError(f"a picture of this run is gone: {error}") from None
        distance = frechet_distance(given, made)
        draws = frechet_draws(given[:, None], made[:, None], seed=context.seed)
        spread, ci = around(distance, draws)
        metric = f"Fréchet distance ({context.judge.short})"  # worth nothing without whose features
        return Value(metric, distance, spread, ci, len(records), skill, split, 0.0, False)
