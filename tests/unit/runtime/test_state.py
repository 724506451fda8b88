"""The meter's state in the changelog: written row by row, read back in any length of log."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    NOW,
    TOPICS,
    governed,
    partition,
    record,
    sums_of,
    task_rows,
    tick,
    usage,
)

from sluice.metering.sources import SourceKey
from sluice.metering.tasks import TaskKey
from sluice.runtime.partition import Partition
from sluice.runtime.state import State

HOUR_US = 3_600_000_000


def logged(part: Partition) -> list[tuple[bytes, bytes]]:
    """State rows since the last checkpoint, as the changelog holds them."""
    return [(o.key, o.value or b"") for o in part.take() if o.topic == TOPICS.meter_state]


def restored(log: list[tuple[bytes, bytes]]) -> State:
    """The state after every row of a log that was never compacted."""
    state = State(HOUR_US, HOUR_US)
    for key, value in log:
        state.load({key: value})
    return state


def tables(state: State) -> list[Any]:
    """Everything that a state remembers."""
    return [state.header, state.sources.rows, state.sources.unnumbered, *sums_of(state),
            state.windows.is_dirty(), state.tasks.is_dirty()]  # fmt: skip


def test_every_kind_of_row_survives_the_changelog() -> None:
    """Producers, ids, windows, ledgers, tasks and cohorts come back equal, with their types."""
    part, _, start = governed()
    events = [usage(1, task_id="t", parent_event_id="p"), usage(2, source_seq=None)]
    part.apply([*start, *(record(2 + k, event) for k, event in enumerate(events))])
    state = restored(logged(part))
    assert tables(state) == tables(part.state)
    assert all(tables(state)[1:])
    assert isinstance(next(iter(task_rows(state))), TaskKey)
    assert isinstance(next(iter(state.sources.rows)), SourceKey)


def test_a_log_of_dirty_published_and_dropped_rows_leaves_nothing_to_publish() -> None:
    """A checkpoint per record: rows that went out and left are neither kept nor looked for."""
    part, _, start = governed()
    records = [*start, record(2, usage(1, task_id="t")), tick(3, NOW + HOUR_US),
               tick(4, NOW + 4 * HOUR_US), tick(5, NOW + 4 * HOUR_US + 60_000_000)]  # fmt: skip
    log = []
    for one in records:
        part.apply([one])
        log += logged(part)
    state = restored(log)
    assert tables(state) == tables(part.state)
    assert (len(state.windows), len(state.tasks)) == (0, 0)
    successor = partition(_references(part), stored=dict(log))
    successor.apply([tick(6, NOW + 5 * HOUR_US)])
    assert not state.windows.is_dirty()


def _references(part: Partition) -> Any:
    return part._references


def test_only_what_changed_is_written() -> None:
    """After a checkpoint nothing waits; a tick in the same second changes the header only."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, task_id="t"))])
    logged(part)
    assert not part.state.changed()
    part.apply([tick(3, NOW)])
    assert [key for key, _ in logged(part)] == [b"h"]


def test_what_is_gone_becomes_a_tombstone() -> None:
    """An evicted row is removed from the changelog."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, task_id="t"))])
    kept = {key for key, _ in logged(part)}
    part.apply([tick(3, NOW + 3 * HOUR_US), tick(4, NOW + 4 * HOUR_US)])
    gone = {key for key, value in logged(part) if not value}
    assert {key[:1] for key in gone} == {b"w", b"t", b"c"}
    assert gone < kept


def test_holes_given_up_after_a_week_are_counted_lost() -> None:
    """The counter and the producer's row say the same."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(5))])
    week = 7 * 86_400_000_000
    part.apply([tick(3, NOW + week + 60_000_000)])
    assert part.state.header.counters["lost"] == 4
    assert part.state.sources.rows[SourceKey("gw", "e1", "acme")].lost == 4
