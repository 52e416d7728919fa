"""Looking at data as a model will see it: what there is, what is wrong, which tokens are learnt.

Every file is opened and every text is tokenized; codes are not computed, for their number is known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from unified.sequence import Layout
from unified.train.formats import MARK
from unified.train.readers import Records
from unified.train.records import DataError, Record

if TYPE_CHECKING:
    from unified.train.encoding import Encoded, Encoder

BINS = 8
NAMED = 20  # problems of a kind that are printed
TOKENS = ("text", "image", "view", "control")
WIDTH = 30  # letters of a histogram's longest bar


@dataclass(frozen=True)
class Problem:
    """A record that cannot be learnt from, and why."""

    id: str
    reason: str


@dataclass
class Report:
    """What `check` found.

    Attributes:
        messages, parts: how many of each role, of each type.
        tokens, learnt: by kind (text, image: codes, view: slots, control), all and those with loss;
            rejected replies included.
        lengths: ids of each conversation.
        broken: records that cannot be read, or name files that cannot.
        long: those longer than the context. masked: those without any loss.
        unbound: texts that spell a placeholder and have no file for it.
    """

    path: str
    format: str
    fingerprint: str
    context: int
    records: int = 0
    preferences: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    learnt: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    broken: list[Problem] = field(default_factory=list)
    long: list[Problem] = field(default_factory=list)
    masked: list[Problem] = field(default_factory=list)
    unbound: int = 0

    @property
    def well(self) -> bool:
        """Whether every record can be learnt from as it is."""
        return not (self.broken or self.long or self.masked)

    def histogram(self) -> list[tuple[int, int, int]]:
        """(from, to, how many): conversations by their number of ids, `to` left out."""
        if not self.lengths:
            return []
        low = min(self.lengths)
        step = -(-(max(self.lengths) + 1 - low) // BINS)
        counts = Counter((length - low) // step for length in self.lengths)
        return [(low + k * step, low + (k + 1) * step, counts[k]) for k in range(max(counts) + 1)]

    def row(self) -> dict[str, Any]:
        """For programs: everything; lengths as their histogram."""
        names = [field.name for field in fields(self) if field.name != "lengths"]
        row = {name: _plain(getattr(self, name)) for name in names}
        bins = [{"from": a, "to": b, "records": n} for a, b, n in self.histogram()]
        return {
            **row,
            "well": self.well,
            "histogram": bins,
            "longest": max(self.lengths, default=0),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        pairs = f", {self.preferences} of them pairs" if self.preferences else ""
        yield f"{self.path}: {self.records} records{pairs}, format {self.format}"
        yield f"fingerprint  {self.fingerprint[:16]}"
        yield f"messages     {_counted(self.messages)}"
        yield f"parts        {_counted(self.parts)}"
        yield f"tokens       {_counted(self.tokens)}; together {sum(self.tokens.values()):,}"
        yield f"with loss    {_counted(self.learnt)}; together {sum(self.learnt.values()):,}"
        if self.lengths:
            yield f"length       {min(self.lengths)} to {max(self.lengths)}, context {self.context}"
        most = max((count for *_, count in self.histogram()), default=0)
        for start, stop, count in self.histogram():
            bar = "#" * -(-count * WIDTH // most)
            yield f"  {start:>6} to {stop - 1:<6} {bar} {count}".rstrip()
        kinds = {
            "not readable": self.broken,
            f"longer than the context of {self.context}": self.long,
            "without any loss": self.masked,
        }
        for what, problems in kinds.items():
            if problems:
                many = "1 record" if len(problems) == 1 else f"{len(problems)} records"
                yield f"{many} {what}:"
                yield from (f"  {problem.reason}" for problem in problems[:NAMED])
            if len(problems) > NAMED:
                yield f"  … and {len(problems) - NAMED} more"
        if self.unbound:
            yield f"{self.unbound} texts spell <image> or the like without a file: they stay text"
        if self.well:
            yield "all records can be learnt from"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [asdict(problem) for problem in value]
    return dict(value) if isinstance(value, Counter) else value


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"


def check(
    records: Records, encoder: Encoder, on_progress: Callable[[int, int], None] | None = None
) -> Report:
    """Go through all records.

    Raises:
        ModalityError: a record holds a medium that the model does not take; before any other work.
    """
    check_modalities(records, encoder)
    report = Report(records.path, records.format, records.fingerprint, encoder.context)
    for index in range(len(records)):
        report.records += 1
        try:
            record = records[index]
            conversations = conversations_of(record, encoder, draft=True)
        except DataError as error:
            report.broken.append(Problem(str(index), str(error)))
        else:
            _count(report, record, conversations, encoder)
        if on_progress is not None:
            on_progress(index + 1, len(records))
    return report


def check_modalities(records: Records, encoder: Encoder) -> None:
    """Raise ModalityError for the first record with a medium that the model does not take."""
    for index in range(len(records)):
        try:
            record = records[index]
        except DataError:
            continue  # named by those who need it
        encoder.check(record)


def conversations_of(record: Record, encoder: Encoder, draft: bool = False) -> list[Encoded]:
    """A record encoded: with its reply and, in preference data, with the rejected one."""
    conversations = [encoder.encode(record, draft=draft)]
    if record.rejected is not None:
        conversations.append(encoder.encode_rejected(record, draft=draft))
    return conversations


def fault(record: Record, conversations: list[Encoded], encoder: Encoder) -> tuple[str, str] | None:
    """("long" or "masked", in words) of a record that cannot be learnt from."""
    where = record.source or record.id
    longest = max(map(len, conversations))
    if longest > encoder.context:
        return "long", f"{where}: {longest} tokens, and the model reads {encoder.context}"
    if not all(any(encoded.loss) for encoded in conversations):
        return "masked", f"{where}: no token carries loss"
    return None


def _count(report: Report, record: Record, conversations: list[Encoded], encoder: Encoder) -> None:
    report.preferences += record.rejected is not None
    report.messages.update(m.role for m in record.messages + (record.rejected or ()))
    for part in record.parts():
        report.parts[part.type] += 1
        report.unbound += bool(MARK.search(part.text))
    for encoded in conversations:
        report.lengths.append(len(encoded))
        kinds = _kinds(encoder.layout)[encoded.ids]
        for counts, held in ((report.tokens, kinds), (report.learnt, kinds[encoded.loss])):
            found = np.bincount(held, minlength=len(TOKENS)).tolist()
            counts.update({kind: n for kind, n in zip(TOKENS, found, strict=True) if n})
    wrong = fault(record, conversations, encoder)
    if wrong is not None:
        getattr(report, wrong[0]).append(Problem(record.id, wrong[1]))


@lru_cache(maxsize=4)
def _kinds(layout: Layout) -> np.ndarray:
    """For every id, which of TOKENS it is."""
    vocabulary = layout.vocabulary
    kinds = [TOKENS.index(vocabulary.kind(token)) for token in range(len(vocabulary))]
    kinds[vocabulary.control("slot")] = TOKENS.index("view")
    return np.array(kinds, np.int64)


# --- as the model sees it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Tokens of one kind that follow each other, as they are shown, and whether they are learnt."""

    shown: str
    loss: bool


def render(encoded: Encoded, encoder: Encoder) -> list[list[Run]]:
    """What the model reads, a line for each turn: "words" in quotes, <control> tokens by their
    names, codes and slots counted."""
    kinds = _kinds(encoder.layout)[encoded.ids].tolist()
    end = encoder.layout.vocabulary.control("end")
    lines: list[list[Run]] = [[]]
    tokens = zip(encoded.ids, kinds, encoded.loss, range(len(kinds)), strict=True)
    control = TOKENS.index("control")
    for (kind, loss, _), run in groupby(
        tokens, lambda t: (t[1], t[2], t[3] if t[1] == control else -1)
    ):
        ids = [token for token, *_ in run]
        lines[-1].append(Run(_shown(ids, TOKENS[kind], encoder), loss))
        if ids == [end]:
            lines.append([])
    return [line for line in lines if line]


def _shown(ids: list[int], kind: str, encoder: Encoder) -> str:
    match kind:
        case "text":
            return json.dumps(encoder.processor.tokenizer.text(ids), ensure_ascii=False)
        case "image":
            return f"{len(ids)} codes"
        case "view":
            return f"{len(ids)} slots"
    return encoder.layout.vocabulary.name(ids[0])


def plain(line: list[Run]) -> str:
    """A line of `render` where what is learnt stands in [ ]."""
    words = []
    for loss, runs in groupby(line, lambda run: run.loss):
        text = " ".join(run.shown for run in runs)
        words.append(f"[{text}]" if loss else text)
    return " ".join(words)
