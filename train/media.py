"""Pictures, films and sound of one's own, as a tokenizer learns from them.

    data of any format that `unified data check` knows, or a folder of files without a word
    -> the files of one medium -> pieces of one size, a few files kept apart

What is drawn at a number is a pure function of it and the seed; a file that cannot be read is set
aside by name. Knows nothing of codes or losses.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from unified.media.film import read_film
from unified.media.picture import named, write_atomic
from unified.media.pixels import to_tensor
from unified.media.sound import read_sound
from unified.media.tensors import fitted
from unified.tokenizers.codec import CodecSpec
from unified.train.documents import CAPTIONS, files_in
from unified.train.encoding import opened
from unified.train.formats import Reader
from unified.train.mixture import Epochs
from unified.train.quarantine import Quarantine
from unified.train.readers import detect, open_source
from unified.train.records import DataError, Part
from unified.train.sources import Folder, Place, Sample, media_kind

LOOKED_AT = 16  # files of which one must be readable
KEPT_APART = 4  # files at least, where there are four times as many
KEPT = 2**29  # bytes of pictures that are kept as they are learnt from


class MediaConfig(BaseModel):
    """Where the files lie.

    Attributes:
        path: a folder of files, or data of any format that `unified data check` knows.
        media, split: see `unified.train.readers.read`.
        held_out: share of the files that is never learnt from; of sixteen or more at least four, of
            fewer a quarter, of one none.
    """

    model_config = ConfigDict(extra="forbid")

    path: str
    media: str | None = None
    split: str | None = None
    held_out: float = Field(default=0.02, gt=0, le=1)


class Media:
    """The files of a codec's medium; of a film's the soundtrack counts as sound, too.

    Args:
        length: frames or samples of a piece; a shorter film stands still at its end, a shorter
            sound falls silent. For pictures nothing.
        unreadable: share of the files that may be set aside.

    Raises:
        DataError: no file of this medium, or none of the first LOOKED_AT that can be read.
    """

    def __init__(
        self, config: MediaConfig, spec: CodecSpec, *, length: int = 0, seed: int = 0,
        unreadable: float = 0.01,
    ):  # fmt: skip
        self.spec, self.length, self.seed = spec, length, seed
        self.files = _Files(config, spec.medium)
        known = self.files.places
        # by name: a file added later moves no other to the other side
        chance = {k: zlib.crc32(self.files.key(k).encode("utf-8", "replace")) for k in known}
        kept = [k for k in known if chance[k] < config.held_out * 2**32]
        least = max(1, min(KEPT_APART, len(known) // 4))
        self.kept = kept if len(kept) >= least else sorted(known, key=chance.__getitem__)[:least]
        apart = set(self.kept)
        self.learnt = [k for k in known if k not in apart] or known
        self.epochs = Epochs(len(self.learnt), seed)
        self.quarantine = Quarantine(
            len(self.learnt), unreadable, lambda k: self.files.name(self.learnt[k])
        )
        self._pictures: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Files that are learnt from."""
        return len(self.learnt)

    def begin(self, folder: Path, words: bool = False) -> None:
        """Go on with a run in `folder` from what it set aside before.

        Raises:
            ValueError: it was begun with other data, or of the first files, or of those kept apart,
                none can be read.
        """
        mark, path = {"data": self.files.fingerprint}, folder / "data.json"
        if path.is_file() and json.loads(path.read_text()) != mark:
            raise ValueError(f"tokenizer.data: {folder} was begun with other data; give this run "
                             "another folder (--out)")  # fmt: skip
        first = None
        for index in self.learnt[:LOOKED_AT]:
            try:
                self._read(index, 0.0)
                if words:
                    self.files.caption(index)
                first = None
                break
            except (ValueError, OSError) as error:
                first = first or error
        if first is not None:
            raise first
        self.held_out(1)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(mark) + "\n").encode())
        self.quarantine.keep(folder / "quarantine.jsonl")

    def batch(self, start: int, count: int) -> torch.Tensor:
        """Pieces of draws start..start+count: (count, C, H, W), (count, C, T, H, W) or
        (count, C, T), in [-1, 1].

        Raises:
            UnreadableError: more files than may be cannot be read.
        """
        return torch.stack([self._drawn(number)[0] for number in range(start, start + count)])

    def pairs(self, start: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """The same, and their captions."""
        both = [self._drawn(number, words=True) for number in range(start, start + count)]
        return torch.stack([piece for piece, _ in both]), [words for _, words in both]

    def held_out(self, count: int) -> torch.Tensor:
        """Pieces of at most `count` of the files kept apart, from their middle.

        Raises:
            DataError: none of these can be read.
        """
        pieces: list[torch.Tensor] = []
        why: Exception | None = None
        for index in self.kept:
            try:
                pieces.append(self._read(index, 0.5))
            except (ValueError, OSError) as error:
                why = error
            if len(pieces) == count:
                break
        if not pieces:
            raise DataError(f"of the files kept apart none can be read; the last: {why}")
        return torch.stack(pieces)

    def _drawn(self, number: int, words: bool = False) -> tuple[torch.Tensor, str]:
        def read(place: int) -> tuple[torch.Tensor, str]:
            index = self.learnt[place]
            at = random.Random(f"{self.seed}/piece/{number}").random()
            return self._read(index, at), self.files.caption(index) if words else ""

        return self.quarantine.draw(self.epochs, number, read)

    def _read(self, index: int, at: float) -> torch.Tensor:
        """A piece of a file, at `at` (0 to 1) of the places where one can begin."""
        spec, kept = self.spec, self._pictures.get(index)
        if kept is not None:
            return to_tensor(kept[None])[0]
        part = self.files.part(index)
        if spec.medium == "image":
            image = fitted(opened(part), spec.image_size)
            if (len(self._pictures) + 1) * image.nbytes <= KEPT:
                self._pictures[index] = image
            return to_tensor(image[None])[0]
        file: Any = part.media
        if isinstance(file, str):
            raise DataError(f"{part.name}: nothing is fetched here; download it and name the file")
        piece: dict[str, Any] = {"count": self.length, "at": at}
        if spec.medium == "video":
            frames = read_film(file, spec.rate, spec.image_size[0], **piece)
            still = frames[-1:].repeat(self.length - len(frames), 0)
            return to_tensor(np.concatenate([frames, still])).transpose(0, 1)
        wave = read_sound(file, int(spec.rate), **piece)
        wave = np.pad(wave, (0, self.length - len(wave)))
        return torch.from_numpy(wave)[None].repeat(spec.channels, 1)


def captions(config: MediaConfig, most: int) -> Iterator[str]:
    """The words beside pictures, at most so many."""
    files = _Files(config, "image")
    for index in files.places[:most]:
        try:
            yield files.caption(index)
        except DataError:
            continue


class _Files:
    """What data hold of one medium, by the number of the sample."""

    def __init__(self, config: MediaConfig, medium: str):
        media = Path(config.media) if config.media else None
        self.medium = medium
        self.kinds = ("audio", "video") if medium == "audio" else (medium,)
        self.source = open_source(config.path, media, config.split)
        self.places = list(range(len(self.source)))
        if isinstance(self.source, Folder):
            kinds = [media_kind(Path(row["file"])) for row in self.source.rows]
            self.places = [k for k in self.places if kinds[k] in self.kinds]
        if not self.places:
            known = "pictures" if medium == "image" else "films" if medium == "video" else "sound"
            raise DataError(f"{named(config.path)}: no {known} in it, by the endings of its files")
        self.fingerprint = f"{self.source.fingerprint} {medium} {config.held_out}"
        self._reader: Reader | None = None

    def key(self, index: int) -> str:
        return self.source.key(index)

    def name(self, index: int) -> str:
        return self.source.where(index)

    def part(self, index: int) -> Part:
        """The first file of this medium in a sample.

        Raises:
            DataError: there is none; named.
        """
        if isinstance(self.source, Folder):
            name = self.source.rows[index]["file"]
            return Part(self.medium, media=Place(self.source.folders)(name), name=name)
        sample = self.source.sample(index)
        try:
            found = [part for part in self._parts(sample) if part.type in self.kinds]
        except DataError as error:
            raise DataError(f"{sample.source}: {error}") from None
        if not found:
            raise DataError(f"{sample.source}: no {self.medium} in it")
        return found[0]

    def _parts(self, sample: Sample) -> list[Part]:
        own = files_in(sample)
        if own:
            return own
        if self._reader is None:
            self._reader = detect(self.source)
        return [part for record in self._reader.records(sample) for part in record.parts()]

    def caption(self, index: int) -> str:
        """The words beside a file.

        Raises:
            DataError: there are none; says where to write them.
        """
        sample = self.source.sample(index)
        found = (sample.get(column) for column in CAPTIONS)
        words = next((text for text in found if isinstance(text, str) and text.strip()), None)
        if words is None:
            raise DataError(f"{sample.source}: no caption; give it a column 'text'")
        return words.strip()
