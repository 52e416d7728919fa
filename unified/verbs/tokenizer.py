"""`unified tokenizer train|eval|encode|decode`: what turns media into codes and back."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Annotated, Any

import typer

from unified.media import picture
from unified.media.picture import named
from unified.options import (
    AsJson,
    Device,
    Out,
    Overrides,
    RecipeName,
    RecipeSeed,
    Seed,
    Tokenizer,
    whole,
)
from unified.verbs.common import check_json, print_json, status
from unified.verbs.train import train

Steps = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=1000, help="Steps of the flow decoder (seed)."),
]
FlowGuidance = Annotated[
    float | None,
    typer.Option(
        metavar="X", min=0, max=100, help="How closely to follow the codes (seed); 1 is none."
    ),
]
tokenizer_app = typer.Typer(
    help="Turn pictures, films and sound into codes and back; train and judge what does it.",
    epilog="Example: unified tokenizer encode cat.png",
    no_args_is_help=True,
)


@tokenizer_app.command("train", epilog="Example: unified tokenizer train pixels --out runs/vq")
def tokenizer_train(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    out: Out = None,
    seed: RecipeSeed = None,
    device: Device = None,
    as_json: AsJson = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Learn from files of your own: a folder of pictures, films or sound, or any data"
            " that `unified data check` knows.",
        ),
    ] = None,
) -> int:
    """Train a tokenizer alone: the tokenizer stage of a recipe (toybox, audio, video or
    seed for the shipped ones, or pixels); on the toybox, or on files of your own by --data."""
    if data is not None:
        overrides = [*(overrides or []), f"tokenizer.data={json.dumps(data)}"]
    return train(recipe, ["tokenizer"], overrides, out, seed, device, as_json)


@tokenizer_app.command("eval", epilog="Example: unified tokenizer eval --grid grid.png")
def tokenizer_eval(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A shipped tokenizer (toybox, audio, video, seed), or a directory of one, a model"
            " or a run.",
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Save originals above their reconstructions."),
    ] = None,
    prefixes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Save pictures drawn from 1, 2, 4 … all of their codes (seed)."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many held-out items.")] = 512,
    probe: Annotated[
        bool,
        typer.Option(help="Also train probes: how predictable the codes are, what they hold."),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Judge on files of your own, as for train: without what needs the toybox's facts.",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Whose features Fréchet distances of pictures are of: a model, a seed tokenizer"
            " (its teacher), or a vision encoder of transformers.",
        ),
    ] = None,
    steps: Steps = None,
    guidance: FlowGuidance = None,
    device: Device = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge a tokenizer on pictures, films or sound that it never saw: what comes back, and how
    the codes are used."""
    saved = [path for path in (grid, prefixes) if path is not None]
    for path in saved:
        picture.check_target(path)
    if data is not None and probe:
        raise ValueError("--probe asks for facts that files of your own do not have; leave it or"
                         " --data out")  # fmt: skip
    from unified.eval import rebuilt
    from unified.eval import tokenizer as judge

    codec = opened(model, device)
    _drawn_by(codec, steps=steps, guidance=guidance)
    given = None if data is None else _given(codec, data, limit)
    if prefixes is not None:
        rebuilt.strip(codec, prefixes, seed=seed, given=given)
    with status("Judging the tokenizer"):
        rows = judge.evaluate_tokenizer(codec, count=limit, seed=seed, probe=probe,
                                        features=features, given=given)  # fmt: skip
        if grid is not None:
            rebuilt.grid(codec, grid, seed=seed, given=given)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        spread = f" ± {row['stderr']:.2g}" if row["stderr"] else ""
        print(f"{row['metric']:26}{row['value']:.4g}{spread}  (n = {row['n']})")
    for path in saved:
        print(named(path))


def _drawn_by(codec: Any, **settings: float | None) -> None:
    """Set how a flow decoder draws, where something is said of it.

    Raises:
        ValueError: another codec, which has nothing to set.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    sampling = getattr(codec, "sampling", None)
    if given and sampling is None:
        names = ", ".join(f"--{name}" for name in given)
        raise ValueError(f"{names}: a tokenizer of kind {codec.kind!r} draws in one way alone; only"
                         " seed takes these")  # fmt: skip
    if sampling is not None:
        sampling.update(given)


def _given(codec: Any, data: str, limit: int) -> Any:
    """Files of one's own as a codec takes them, at most `limit`: of films 9 frames and of sound 2
    seconds from the middle of each."""
    from unified.eval.tokenizer import FRAMES, SECONDS
    from unified.train.media import Media, MediaConfig

    length = FRAMES if codec.spec.medium == "video" else int(SECONDS * codec.spec.rate)
    config = MediaConfig(path=data, held_out=1.0)
    with status("Reading the data"):
        return Media(config, codec.spec, length=length).held_out(limit)


@tokenizer_app.command("encode", epilog="Example: unified tokenizer encode cat.png -o cat.json")
def tokenizer_encode(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture, a film or sound.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="CODES.json",
            help="Standard output if left out.",
            callback=check_json,
        ),
    ] = None,
    model: Tokenizer = None,
    device: Device = None,
) -> None:
    """Turn a picture, a film or sound into codes, by a tokenizer of that medium."""
    codec = opened(model, device, _medium(file))
    from unified.media.tensors import read_media

    media = read_media(file, codec.spec)
    spec = codec.spec
    value = {
        "medium": spec.medium,
        "codebooks": list(spec.codebooks),
        "time": media.shape[2] if spec.medium != "image" else 1,
        "codes": codec.encode(media.to(codec.device))[0].tolist(),
    }
    print_json(value, out)
    if out is not None:
        print(named(out))


@tokenizer_app.command("decode", epilog="Example: unified tokenizer decode cat.json -o cat.png")
def tokenizer_decode(
    file: Annotated[Path, typer.Argument(metavar="CODES.json", help="What encode wrote.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Where the picture, film or sound goes."),
    ],
    model: Tokenizer = None,
    steps: Steps = None,
    guidance: FlowGuidance = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", callback=whole, help="Noise that it starts from (seed)."
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Turn codes back into a picture, a film or sound."""
    codes, time, medium, codebooks = read_codes(file)
    codec = opened(model, device, medium)
    if codebooks not in (None, list(codec.spec.codebooks)):
        raise ValueError(f"{named(file)}: written with codebooks of {codebooks} codes, and this"
                         f" tokenizer has {list(codec.spec.codebooks)}; name the one that wrote it"
                         " by --model")  # fmt: skip
    _drawn_by(codec, steps=steps, guidance=guidance, seed=seed)
    import torch

    from unified.media.tensors import check_target, write_media

    check_target(out, codec.spec)
    media = codec.decode(torch.tensor([codes], device=codec.device))
    if time and codec.spec.medium != "image":
        media = media[:, :, :time]
    write_media(out, media, codec.spec)
    print(named(out))


def read_codes(path: Path) -> tuple[list[int], int, str, Any]:
    """The codes in a file that `tokenizer encode` wrote, the frames or samples they stand for (0
    where it does not say), their medium, and the codebooks of what wrote them.

    Raises:
        ValueError: it is no such file.
    """
    try:
        if path.stat().st_size > 2**24:
            raise ValueError(f"{named(path)}: too large for the codes of one item")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{named(path)}: no JSON; give what `tokenizer encode` wrote") from None
    codes = data.get("codes") if isinstance(data, dict) else data
    if not isinstance(codes, list) or not all(type(code) is int for code in codes):
        raise ValueError(f"{named(path)}: it has no list of codes; give what `encode` wrote")
    if any(abs(code) >= 2**31 for code in codes):
        raise ValueError(f"{named(path)}: a code is out of range; give what `encode` wrote")
    said = data if isinstance(data, dict) else {}
    time, medium = said.get("time", 0), str(said.get("medium") or "image")
    return codes, time if type(time) is int and time > 0 else 0, medium, said.get("codebooks")


def _medium(path: Path) -> str:
    """What a file holds, by its name; a picture where that does not tell."""
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return kind if kind in ("audio", "video") else "image"


def opened(model: str | None, device: str | None = None, medium: str = "image") -> Any:
    """The tokenizer in a model directory, or in a directory of its own, ours or published, or a
    shipped one by its name; without a name, the shipped one of a medium."""
    with status("Loading the tokenizer"):
        codec = _load_codec(model, medium)
        from unified.device import placed

        return codec.to(placed(device))


def _load_codec(model: str | None, medium: str) -> Any:
    from unified import checkpoint, handle
    from unified.tokenizers.kinds import load_codec

    shipped = handle.DEFAULT.parent
    folder = handle.DEFAULT if medium == "image" else shipped / medium
    if model is not None:
        folder = Path(model)
        if not folder.exists() and folder.name == model and (shipped / model).is_dir():
            folder = shipped / model
    if (folder / checkpoint.MANIFEST).is_file():
        checkpoint.verify(folder)
    inside = (handle.CODEC, "tokenizer/model")  # of a model, of a run
    folder = next((folder / name for name in inside if (folder / name).is_dir()), folder)
    if not (folder / "config.json").is_file():
        names = ", ".join(sorted(path.name for path in shipped.iterdir() if path.is_dir()))
        what = f"{named(folder)}: no tokenizer there" if model else f"none is shipped for {medium}"
        raise ValueError(f"{what}; name a directory that has one, or a shipped one ({names})")
    if "kind" in json.loads((folder / "config.json").read_text()):
        return load_codec(folder)
    from unified.tokenizers.published import load_published

    return load_published(folder)
