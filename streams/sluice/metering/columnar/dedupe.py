"""Which events of a run were seen before: whole stretches of a producer's numbers at once.

Where the next numbers of a producer are exactly the ones expected, only its mark moves. Everything
else (a hole, a resend, events without numbers) is looked at event by event, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sluice.compiled import compiled
from sluice.metering.columnar.usage import Groups, Usage, grouped
from sluice.metering.dedupe import Seen
from sluice.metering.sources import SourceKey, Sources, source_key
from sluice.wire.column_types import Bools, Ints

# Below this the columns' own cost is more than they save.
_FEWEST = 12
_FIELDS = ("source", "source_epoch", "event_id")


class Observed(NamedTuple):
    """Which events are new to their producers' marks, and what changed by looking.

    `missed`: holes given up by it. `sources` and `unnumbered` are the rows that changed.
    """

    new: Bools
    recovered: int
    missed: int
    sources: set[SourceKey]
    unnumbered: list[tuple[str, str]]


def observe(
    sources: Sources, usage: Usage, keys: Sequence[bytes | None], time: Ints, asked: Bools
) -> Observed:
    """Move the marks of producers by the events that are `asked` for.

    An event arrived under its key at a broker time (µs); where all of them are asked for, every
    key is its event's tenant. An event that is not asked for is not new.
    """
    found = Observed(asked.copy(), 0, 0, set(), [])
    if not asked.all() or usage.rows < _FEWEST:
        return _one_by_one(sources, usage, keys, time, np.flatnonzero(asked), found)
    numbers = usage.number("source_seq")
    if not (numbers.known & (numbers.value >= 1)).any():
        return _one_by_one(sources, usage, keys, time, np.arange(usage.rows), found)
    columns = [usage.coded(name) for name in ("source", "source_epoch", "tenant_id")]
    groups = grouped(*(coded.codes for coded in columns))
    rows = _moved(sources, usage, groups, time, found)
    return _one_by_one(sources, usage, keys, time, rows, found)


def unprotected(sources: Sources, usage: Usage, time: Ints) -> Bools:
    """Events whose duplicates could not be told any more at broker times `time` (µs)."""
    age = time - usage.number("occurred_at").value
    found: Bools = ~usage.number("source_seq").known & (age > sources.dedupe_window_us)
    return found


def _moved(sources: Sources, usage: Usage, groups: Groups, time: Ints, found: Observed) -> Ints:
    """Move the marks of groups whose numbers follow one another; rows of all other groups."""
    marks = [
        SourceKey(*(usage.coded(name).values[usage.coded(name).codes[row]] or ""
                    for name in ("source", "source_epoch", "tenant_id")))
        for row in groups.first.tolist()
    ]  # fmt: skip
    rows_of = sources.rows
    next_ = np.fromiter(
        (1 + (rows_of[key].highest if key in rows_of else 0) for key in marks), dtype=np.int64
    )
    numbers = usage.number("source_seq")
    counts = np.zeros(len(marks), dtype=np.int64)
    last = np.zeros(len(marks), dtype=np.int64)
    fits = _follow(groups.of, np.where(numbers.known, numbers.value, 0), next_, counts, last)
    for place in np.flatnonzero(fits).tolist():
        sources.advance(marks[place], int(counts[place]), int(time[last[place]]))
        found.sources.add(marks[place])
    return np.flatnonzero(~fits[groups.of])


@compiled
def _follow(of: Ints, number: Ints, next_: Ints, counts: Ints, last: Ints) -> Bools:
    """Groups whose numbers are `next_` and on, how many, and where each one's last row is."""
    fits = np.ones(len(next_), dtype=np.bool_)
    for row in range(len(of)):
        group = of[row]
        if number[row] != next_[group] + counts[group]:
            fits[group] = False
        counts[group] += 1
        last[group] = row
    return fits


def _one_by_one(
    sources: Sources, usage: Usage, keys: Sequence[bytes | None], time: Ints, rows: Ints,
    found: Observed,
) -> Observed:  # fmt: skip
    recovered = missed = 0
    for row in rows.tolist():
        event = _marks_of(usage, row)
        key = source_key(event, keys[row])
        lost_before = sources.rows[key].lost if key in sources.rows else 0
        seen = sources.observe(event, keys[row], int(time[row]))
        found.sources.add(key)
        if not key.source_epoch and seen is Seen.NEW:
            found.unnumbered.append((event["source"], event["event_id"]))
        missed += sources.rows[key].lost - lost_before
        recovered += seen is Seen.RECOVERED
        found.new[row] = seen is not Seen.DUPLICATE
    return found._replace(recovered=recovered, missed=missed)


def _marks_of(usage: Usage, row: int) -> dict[str, Any]:
    number, occurred = usage.number("source_seq"), usage.number("occurred_at")
    return {
        **{name: usage.text(name).one(row) or "" for name in _FIELDS},
        "source_seq": int(number.value[row]) if number.known[row] else None,
        "occurred_at": int(occurred.value[row]),
    }
