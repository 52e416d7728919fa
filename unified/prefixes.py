"""What prompts left in the cache, found again by content: a prompt that begins as an earlier one
is run from where it differs.

    ids, digests of the pictures among them -> a chain of digests, one every 16 ids and a last one
    digest -> keys and values of those positions   (and, of a whole prompt, its last hidden state)

Each digest stands for all that comes before it, so equal digests mean equal prefixes. The least
recently used go first where the memory is full. All are dropped when the model is no longer the
one that wrote them: another weight, adapter or hook. Knows nothing of requests or rows.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

SPAN = 16  # ids that a digest adds
MEMORY = 2**28  # bytes


@dataclass
class Counts:
    """prompts asked for, and how many of them found something; positions found and positions run;
    entries dropped for want of memory."""

    prompts: int = 0
    found: int = 0
    reused: int = 0
    run: int = 0
    dropped: int = 0


@dataclass
class Found:
    """length: positions known. kept: theirs, (2 layers, heads, length, head_dim), None where there
    are none. hidden: (D,), of the last one, where the whole prompt is known."""

    length: int = 0
    kept: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


@dataclass
class _Entry:
    kept: torch.Tensor
    hidden: torch.Tensor | None = None

    @property
    def size(self) -> int:
        return self.kept.nbytes + (0 if self.hidden is None else self.hidden.nbytes)


class Prefixes:
    """The store.

    Args:
        memory: bytes that it takes at most; 0 keeps nothing.
    """

    def __init__(self, memory: int = MEMORY):
        if memory < 0:
            raise ValueError(f"prefixes cannot take {memory} bytes; 0 keeps none")
        self.memory = memory
        self.counts = Counts()
        self.size = 0  # bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._mark: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all, counts excepted."""
        self._entries.clear()
        self.size = 0

    def refresh(self, found: tuple[Any, ...], lasting: bool) -> None:
        """Forget all unless the model is what it was at the last call, by what is found of it
        (`step.mark`), where that is `lasting`."""
        if self._mark is None or found != self._mark or not lasting:
            self.clear()
        self._mark = found

    def find(self, chain: Sequence[bytes], length: int) -> Found:
        """The longest beginning of a prompt that is known: all of it, or less than all.

        Args:
            chain: its digests (`digests`). length: its ids.
        """
        known: list[_Entry] = []
        for key in chain:
            entry = self._entries.get(key)
            if entry is None:
                break
            known.append(entry)
        whole = len(known) == len(chain) and known[-1].hidden is not None
        if not whole:  # the last position has to run: its hidden state is wanted
            known = known[: (length - 1) // SPAN]
        for key in reversed(chain[: len(known)]):  # the first is needed by all that follow
            with suppress(KeyError):  # another thread's prompt took its room
                self._entries.move_to_end(key)
        if not known:
            return Found()
        kept = torch.cat([entry.kept for entry in known], 2)
        return Found(kept.shape[2], kept, known[-1].hidden if whole else None)

    def keep(
        self,
        chain: Sequence[bytes],
        length: int,
        read: Callable[[int, int], torch.Tensor],
        hidden: torch.Tensor | None = None,
    ) -> None:
        """Keep what a prompt left.

        Args:
            read: keys and values of its positions start..stop, as in `Found`.
            hidden: of the last position, (D,); without it the ids after the last full span are
                left out, as nothing could go on from them.
        """
        count = len(chain) if hidden is not None else length // SPAN
        missing = [k for k in range(count) if chain[k] not in self._entries]
        if missing and self.memory:
            first = missing[0] * SPAN
            block = read(first, min(length, count * SPAN))
            for k in missing:
                part = block[:, :, k * SPAN - first : (k + 1) * SPAN - first]
                self._put(chain[k], _Entry(part.clone(memory_format=torch.contiguous_format)))
        last = self._entries.get(chain[count - 1]) if count else None
        if last is not None and last.hidden is None and hidden is not None:
            last.hidden = hidden.clone()
            self.size += last.hidden.nbytes
        for key in reversed(chain[:count]):
            with suppress(KeyError):
                self._entries.move_to_end(key)
        while self.size > self.memory:
            self.size -= self._entries.popitem(last=False)[1].size
            self.counts.dropped += 1

    def _put(self, key: bytes, entry: _Entry) -> None:
        self._entries[key] = entry
        self.size += entry.size


def digests(
    ids: Sequence[int], pictures: Sequence[bytes] = (), slot: int = -1, view_length: int = 1
) -> list[bytes]:
    """One for every SPAN ids, and one for all where some are left over.

    Args:
        pictures: digests of the views in `ids`, in reading order, each of `view_length` slots.
    """
    starts = [k for k, token in enumerate(ids) if token == slot][::view_length] if pictures else []
    chain, before, seen = [], b"", 0
    for first in range(0, len(ids), SPAN):
        span = ids[first : first + SPAN]
        part = hashlib.blake2b(before, digest_size=16)
        part.update(array("q", (len(span), *span)).tobytes())
        while seen < len(starts) and starts[seen] < first + SPAN:
            part.update(pictures[seen])
            seen += 1
        before = part.digest()
        chain.append(before)
    return chain


def picture_digest(pixels: torch.Tensor) -> bytes:
    """Of what a picture (C, H, W) holds."""
    held = pixels.detach().cpu().contiguous()
    named = f"{held.dtype} {tuple(held.shape)} ".encode()
    content = held.view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(named + content, digest_size=16).digest()
