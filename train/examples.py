"""What a model is trained on: records, encoded when they are asked for, or shards of tokens that
`data tokenize` wrote for it. Knows nothing of order, batches or losses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unified.media.picture import named
from unified.train.documents import TASKS
from unified.train.encoding import Encoded, Encoder
from unified.train.readers import TOKENIZED, Records, read
from unified.train.records import DataError
from unified.train.shards import Shards

Data = Records | Shards
CACHED = 4096  # conversations that are encoded once and kept


def open_data(
    path: str | Path,
    format: str | None = None,
    *,
    media: Path | None = None,
    split: str | None = None,
    tasks: tuple[str, ...] | None = None,
) -> Data:
    """A folder of shards, or data of any format: see `readers.read`.

    Raises:
        ValueError: shards that are damaged, or were made otherwise than is asked for here.
    """
    if not (Path(path) / TOKENIZED).is_file():
        return read(path, format, media=media, split=split, tasks=tasks or TASKS)
    shards = Shards(Path(path))
    given = {"format": format, "media": media, "split": split}
    for name in (name for name, value in given.items() if value is not None):
        raise ValueError(f"{named(path)}: tokens already, so {name} says nothing; leave it out")
    if tasks and shards.tasks and set(tasks) != set(shards.tasks):
        raise ValueError(
            f"{named(path)}: tokenized to {' and '.join(shards.tasks)}, and not to "
            f"{' and '.join(tasks)}; tokenize the data with that task"
        )
    return shards


class Examples:
    """Data as one model reads them.

    Args:
        row: ids of a row that samples share, where they do: no sample may be longer.

    Raises:
        ValueError: shards that were made for another model; what differs is named.
    """

    def __init__(self, data: Data, encoder: Encoder, row: int | None = None):
        self.data, self.encoder, self.row = data, encoder, row
        self._kept: dict[tuple[int, str], Encoded] = {}
        if isinstance(data, Shards):
            data.check(encoder)

    def reply(self, index: int) -> Encoded:
        """A record; in preference data with its better reply.

        Raises:
            DataError: it is longer than the model's context or a row, nothing of it is learnt, or
                its media cannot be read.
        """
        return self._once(index, self._better)

    def pair(self, index: int) -> tuple[Encoded, Encoded]:
        """A record with its better and with its worse reply.

        Raises:
            DataError: it has no worse one; and as for `reply`.
        """
        return self._once(index, self._better), self._once(index, self._worse)

    def _once(self, index: int, read: Callable[[int], Encoded]) -> Encoded:
        """What is read, kept for the next time as far as there is room."""
        key = index, read.__name__
        if key in self._kept:
            return self._kept[key]
        encoded = self._checked(index, read(index))
        if len(self._kept) < CACHED:
            self._kept[key] = encoded
        return encoded

    def _better(self, index: int) -> Encoded:
        if isinstance(self.data, Shards):
            return self.data[index]
        return self.encoder.encode(self.data[index])

    def _worse(self, index: int) -> Encoded:
        if isinstance(self.data, Shards):
            worse = self.data.rejected(index)
        else:
            record = self.data[index]
            worse = None if record.rejected is None else self.encoder.encode_rejected(record)
        if worse is None:
            where = self.data.where(index)
            raise DataError(f"{where}: no rejected reply, and other records have one")
        return worse

    def _checked(self, index: int, encoded: Encoded) -> Encoded:
        if len(encoded) > self.encoder.context:
            raise DataError(
                f"{self.data.where(index)}: {len(encoded)} tokens; the model reads at most "
                f"{self.encoder.context}. Shorten it or leave it out"
            )
        if self.row is not None and len(encoded) > self.row:
            raise DataError(
                f"{self.data.where(index)}: {len(encoded)} tokens, and a row has {self.row} (pack);"
                " raise pack, or leave it out"
            )
        if not any(encoded.loss[1:]):
            raise DataError(
                f"{self.data.where(index)}: nothing of it is learnt; the assistant must say "
                "something, with loss not false"
            )
        return encoded
