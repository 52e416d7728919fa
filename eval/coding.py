"""Pictures to codes and back, timed: Janus' VQ autoencoder with random weights, or any codec.

Ours and transformers' own JanusVQVAE hold the same weights, in fp32, in one process; it runs as
shipped. Knows nothing of how the two differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unified.eval.speed import Way, interleaved, rows, timed
from unified.tokenizers.published import JanusCodec

# of the configuration; what is left out is the published default: 16384 codes, 128 to 512 channels
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"base_channels": 32, "channel_multiplier": [1, 2], "num_patches": 24,
             "num_res_blocks": 1, "latent_channels": 32, "num_embeddings": 64},
    "large": {"num_patches": 24},
}  # fmt: skip


def random_codec(size: str, seed: int = 0) -> JanusCodec:
    """A JanusVQVAE with random weights, of a size of SIZES; "large" is Janus-Pro's, 384 pixels."""
    from transformers import JanusVQVAE, JanusVQVAEConfig

    torch.manual_seed(seed)
    return JanusCodec(JanusVQVAE(JanusVQVAEConfig(**SIZES[size])), Path("random"))


@dataclass
class Work:
    """What is encoded and decoded, and what each way made of it last.

    Attributes:
        pictures: (B, C, H, W) in [-1, 1]. codes: (B, length).
    """

    pictures: torch.Tensor
    codes: torch.Tensor
    made: dict[str, torch.Tensor]

    @classmethod
    def of(cls, codec: Any, batch: int, seed: int) -> Work:
        """Random pictures and codes for a codec.

        Raises:
            ValueError: it is not one of pictures, or decodes nothing.
        """
        spec = codec.spec
        if spec.medium != "image" or not codec.decodes:
            raise ValueError(
                f"this tokenizer is of {spec.medium}{'' if codec.decodes else ' without a decoder'}"
                "; pictures are timed, both ways: name another with --model"
            )
        random = torch.Generator().manual_seed(seed)
        shape = batch, spec.channels, *spec.image_size
        pictures = (torch.rand(shape, generator=random) * 2 - 1).to(codec.device)
        ranges = [spec.ranges[book] for book in spec.books]
        codes = [[int(torch.randint(r.start, r.stop, (), generator=random)) for r in ranges]
                 for _ in range(batch)]  # fmt: skip
        return cls(pictures, torch.tensor(codes, device=codec.device), {})

    def ways(self, codec: Any, against: bool) -> dict[str, dict[str, Way]]:
        """{"encode" and "decode": {who: way}}; ours first.

        Raises:
            ValueError: there is no codec of transformers' behind this one.
        """
        found = {"unified": (codec.encode, codec.decode)}
        if against:
            if not isinstance(codec, JanusCodec):
                raise ValueError("transformers' own is compared for JanusVQVAE alone; leave --model"
                                 " out, or --against")  # fmt: skip
            model = codec.model
            found["transformers"] = lambda x: model.encode(x).image_tokens, model.decode
        ways: dict[str, dict[str, Way]] = {"encode": {}, "decode": {}}
        for who, (encode, decode) in found.items():
            ways["encode"][who] = self._way(f"encode {who}", encode, self.pictures)
            ways["decode"][who] = self._way(f"decode {who}", decode, self.codes)
        return ways

    def _way(self, name: str, act: Any, given: torch.Tensor) -> Way:
        def work() -> int:
            with torch.inference_mode():
                self.made[name] = act(given)
            return len(given)

        return timed(work)


def race(
    codec: Any, against: bool, rounds: int, batch: int, seed: int, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """`speed.rows` of encoding and of decoding; ratios are ours to each way's.

    Returns:
        Rows, those beside transformers' with `difference`: the largest of a pixel's values, of
        decoding.
    """
    work = Work.of(codec, batch, seed)
    out: list[dict[str, Any]] = []
    dtype = next(iter(codec.state_dict().values())).dtype
    facts = {**settings, "batch": batch, "seed": seed, "dtype": str(dtype).removeprefix("torch.")}
    for task, ways in work.ways(codec, against).items():
        out += rows(task, "pictures", interleaved(ways, rounds), facts)
    if against:
        ours, theirs = work.made["decode unified"], work.made["decode transformers"].clamp(-1, 1)
        out[-1]["difference"] = float((ours - theirs).abs().max())
    return out
