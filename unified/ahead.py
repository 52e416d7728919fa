"""A running batch in steps of fixed shapes: where its requests stand -> a plan -> their next ids.

While every request of a batch is drawing, the host knows all of the next steps but the codes:
several run before any is read (`unified.fixed`). Where one of them writes words, its next id
decides what follows: then one step runs, drawn codes are chosen where the logits are, and the
engine chooses the words. Knows sessions and requests; nothing of shapes or devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unified.fixed import STEPS, Fixed, Plan

if TYPE_CHECKING:
    from unified.batch import Lane, Session
    from unified.engine import Engine, Row


def advance(session: Session, fixed: Fixed) -> list[tuple[Row, int]]:
    """The next ids of every request of a batch, several of each or one, in the order of steps.

    No prompt may be waiting to be run, nor a twin to begin or to end.
    """
    engine, lanes = session.engine, session._lanes
    rows = [lane.row for lane in lanes if not lane.twin]
    drawing = [row for row in rows if draws(engine, row)]
    steps = 1
    if len(drawing) == len(rows):
        steps = min(alike(engine, row) for row in rows)
    features = []
    for lane in lanes:
        if not lane.twin and lane.row.reply.ids[-1] == session._slot:
            features.append((lane.place, session._feature(lane.row)))
    hidden, chosen = fixed.run(plan(engine, lanes, steps), features)
    session.steps += steps
    for lane in lanes:
        lane.length += steps
    found: list[tuple[Row, int]] = []
    if len(drawing) < len(rows):
        others = [row for row in rows if not draws(engine, row)]
        by_row = dict(zip(map(id, others), engine.choose(others, hidden), strict=True))
        for row in rows:
            if id(row) not in by_row:
                engine._advance(row, [chosen[0][_place(row)]])
            found.append((row, row.reply.ids[-1]))
        return found
    for step in chosen:
        for row in rows:
            if not row.done:  # cancelled meanwhile
                engine._advance(row, [step[_place(row)]])
                found.append((row, row.reply.ids[-1]))
    return found


def draws(engine: Engine, row: Row) -> bool:
    """Whether what a row writes next is known, or a code of a picture that is drawn here."""
    return row.at is not None and row.at <= engine._last


def alike(engine: Engine, row: Row) -> int:
    """Of the next STEPS steps of a row that draws, those before its twin or its picture ends, or
    its twin begins."""
    now, left = engine.compares(row), engine._last + 1 - (row.at or 0)
    steps = range(1, min(STEPS, left))
    return next((k for k in steps if engine.compares(row, k) != now), min(STEPS, left))


def _place(row: Row) -> int:
    assert row.lane is not None
    return row.lane.place


def plan(engine: Engine, lanes: list[Lane], steps: int) -> Plan:
    """The next steps of some lanes; those that write words have one, and choose nothing in it."""
    tables: list[Any] = [[[] for _ in range(steps)] for _ in range(5)]
    places, forced, low, high, weights = tables
    found = Plan([], [], places, forced, low, high, weights)
    for lane in lanes:
        row, drawing = lane.row, draws(engine, lane.row)
        twin = row.twin if drawing and row.guided and not lane.twin else None
        found.ids.append(row.reply.ids[-1])
        found.columns.append(lane.length)
        found.twins.append(lane.place if twin is None else twin.place)
        found.owners.append(_place(row))
        own = drawing and not lane.twin
        found.sampling.append(row.request.sampling if own else None)
        found.generators.append(row.generator if own else None)
        _add_steps(engine, row, found, steps, drawing, twin is not None)
    return found


def _add_steps(
    engine: Engine, row: Row, found: Plan, steps: int, drawing: bool, guided: bool
) -> None:
    written, start = len(row.codes), engine.vocabulary.image_start
    sampling, length = row.request.sampling, engine.layout.image_length
    for k in range(steps):
        due = engine.plan[(row.at or 0) + k][0] if drawing else 0
        codes = range(0) if isinstance(due, int) else range(due.start - start, due.stop - start)
        found.places[k].append(max(0, written - 1))
        found.forced[k].append(due if isinstance(due, int) else -1)
        found.low[k].append(codes.start)
        found.high[k].append(codes.stop)
        found.weights[k].append(sampling.weight(written, length) if guided else 1.0)
        written += not isinstance(due, int)
