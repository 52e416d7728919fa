"""Official files of benchmarks -> samples: the readers by name.

A reader takes what the user downloaded and the benchmark's own file, and yields samples in the
order of the data. `understanding.py` and `drawing.py` hold them, one function a format, and
`tables.py` the one for any table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from unified.eval import drawing, lessons, paired, rebuilding, tables, understanding
from unified.eval.benchmark import Benchmark, BenchmarkError
from unified.eval.items import Data, DataError, Sample
from unified.media.picture import named

Reader = Callable[[Data, Benchmark], Iterator[Sample]]
READERS: dict[str, Reader] = {
    "pope": understanding.pope,
    "mme": understanding.mme,
    "mmbench": understanding.mmbench,
    "mmmu": understanding.mmmu,
    "mmvet": understanding.mmvet,
    "seed_bench": understanding.seed_bench,
    "vqav2": understanding.vqav2,
    "gqa": understanding.gqa,
    "textvqa": understanding.textvqa,
    "scienceqa": understanding.scienceqa,
    "coco_captions": understanding.coco_captions,
    "librispeech": understanding.librispeech,
    "film_questions": understanding.film_questions,
    "geneval": drawing.geneval,
    "dpg": drawing.dpg,
    "compbench": drawing.compbench,
    "tifa": drawing.tifa,
    "genai": drawing.genai,
    "wise": drawing.wise,
    "vbench": drawing.vbench,
    "captions_to_draw": drawing.captions_to_draw,
    "pictures": rebuilding.folder,
    "table": tables.table,
}
WORLD: dict[str, Callable[[Benchmark, int, int | None], Iterator[Sample]]] = {
    "toybox_paired": paired.samples,
    "toybox_lessons": lessons.samples,
    "toybox_scenes": rebuilding.scenes,
}  # made rather than read: (benchmark, seed, limit)


def needs_data(spec: Benchmark) -> bool:
    """Whether there is something to download."""
    return spec.data.reader not in WORLD


def read(
    spec: Benchmark, path: Path | None, *, seed: int = 0, limit: int | None = None
) -> list[Sample]:
    """The samples of a benchmark.

    Args:
        path: what was downloaded; the hub is asked where it is None and the file names it there.
        seed: of samples that are made rather than read.
        limit: units at most: spread evenly over the skills, each in the order of the data, what is
            scored as one kept together.

    Raises:
        DataError: nothing there, or not in its format.
    """
    reader = spec.data.reader
    if reader in WORLD:
        return list(WORLD[reader](spec, seed, limit))
    if reader not in READERS:
        known = ", ".join([*READERS, *WORLD])
        raise BenchmarkError(f"{spec.name}: unknown reader {reader!r}; one of {known}")
    data = Data(path if path is not None else _from_hub(spec), _expected(spec))
    try:
        samples = list(READERS[reader](data, spec))
    except (DataError, BenchmarkError):
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OSError) as error:
        # a file of another shape, at any line of its reader
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise DataError(
            f"{named(data.root)}: not in the format of {spec.name} ({reason}); it needs"
            f" {data.expects}"
        ) from None
    if not samples:
        raise DataError(f"{named(data.root)}: nothing to ask in it; it needs {data.expects}")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{named(data.root)}: the id {sample.id!r} stands there twice")
        seen.add(sample.id)
    return limited(samples, limit)


def limited(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` units, one of each skill in turn, in the order of the data."""
    if limit is None:
        return samples
    by_skill: dict[str, list[str]] = {}
    for sample in samples:
        units = by_skill.setdefault(sample.skill, [])
        if sample.unit not in units[-1:]:
            units.append(sample.unit)
    kept: dict[str, None] = {}
    for place in range(max(map(len, by_skill.values()))):
        for units in by_skill.values():
            if place < len(units) and len(kept) < limit:
                kept[units[place]] = None
    return [sample for sample in samples if sample.unit in kept]


def _expected(spec: Benchmark) -> str:
    return spec.data.files + (f" ({spec.data.url})" if spec.data.url else "")


def _from_hub(spec: Benchmark) -> Path:
    if not spec.data.hub:
        raise DataError(f"{spec.name}: name its data with --data PATH: {_expected(spec)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec.data.hub, repo_type="dataset"))
    except Exception as error:  # the hub's own errors, and those of any layer below
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"{spec.name}: {spec.data.hub} cannot be had from the hub ({reason});"
            f" name its data with --data PATH: {_expected(spec)}"
        ) from None
