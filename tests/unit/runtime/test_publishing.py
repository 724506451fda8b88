"""When rows are published, under which key and version, and what keeps a silent partition awake."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, TOPICS, FakeRecord, governed, record, tick, usage

from sluice.metering.tasks import GAP_US, KEEP_US
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.runtime.publishing import PUBLISH_S, turn_of
from sluice.wire.codec import decode

HOUR_US, SECOND_US = 3_600_000_000, 1_000_000


def started(*records: FakeRecord) -> Partition:
    """A governed partition that took these records."""
    part, _, start = governed()
    part.apply([*start, *records])
    return part


def rows(part: Partition, topic: str) -> list[tuple[OutRecord, dict[str, Any]]]:
    """Outputs to a topic since the last call, with their decoded rows."""
    return [(out, decode(out.value or b"")[1]) for out in part.take() if out.topic == topic]


@pytest.mark.parametrize("tenant_id", ["acme", "globex", "initech", "umbrella"])
def test_a_changed_row_is_published_in_its_tenants_second(tenant_id: str) -> None:
    """Once in five seconds, in the second that is its turn; its version is the input below it."""
    due = NOW + (turn_of(tenant_id) or PUBLISH_S) * SECOND_US
    part = started(record(2, usage(1, tenant_id=tenant_id)))
    part.apply([tick(3, due - 1000)])
    assert rows(part, TOPICS.windows) == []
    part.apply([record(4, usage(2, tenant_id=tenant_id), at=due)])
    ((out, row),) = rows(part, TOPICS.windows)
    assert (out.partition, out.key, row["events"], row["version"]) == (
        0, tenant_id.encode(), 1, 4,
    )  # fmt: skip
    part.apply([tick(5, due + 4_999_000)])
    assert rows(part, TOPICS.windows) == []
    part.apply([tick(6, due + PUBLISH_S * SECOND_US)])
    assert len(rows(part, TOPICS.windows)) == 1


def test_tenants_take_turns() -> None:
    """Each second some of many tenants, so that their rows do not come all at once."""
    assert {turn_of(f"tenant-{n}") for n in range(50)} == set(range(PUBLISH_S))


def test_a_running_task_is_published_and_again_when_it_has_ended() -> None:
    """Two versions of one part: first without, then with its outcome."""
    part = started(record(2, usage(1, task_id="t", agent_name="a")))
    part.apply([tick(3, NOW + 5 * SECOND_US), tick(4, NOW + GAP_US)])
    found = [row for _, row in rows(part, TOPICS.tasks)]
    assert [(r["version"], r["ended"], r["outcome"]) for r in found] == [
        (3, False, None), (4, True, "ok"),
    ]  # fmt: skip
    assert {r["opened_at"] for r in found} == {NOW}


def test_a_task_that_goes_on_after_its_gap_is_one_part_and_after_an_hour_two() -> None:
    """Eleven minutes of silence end a task for the time being, more than an hour for good."""
    part = started(record(2, usage(1, task_id="t")))
    within = NOW + GAP_US + 60 * SECOND_US
    beyond = within + KEEP_US + 60 * SECOND_US
    part.apply([record(3, usage(2, task_id="t"), at=within),
                record(4, usage(3, task_id="t"), at=beyond),
                tick(5, beyond + GAP_US)])  # fmt: skip
    last = {row["opened_at"]: row for _, row in rows(part, TOPICS.tasks)}
    assert {k: (r["events"], r["ended"]) for k, r in last.items()} == {
        NOW: (2, True), beyond: (1, True),
    }  # fmt: skip


def test_a_task_that_is_over_counts_in_its_cohort_once() -> None:
    """Its agent's cohort holds one task of its whole cost, in the hour in which it left."""
    part = started(record(2, usage(1, task_id="t", agent_name="a")),
                   record(3, usage(2, task_id="t", agent_name="a")))  # fmt: skip
    part.apply([tick(4, NOW + 2 * HOUR_US), tick(5, NOW + 2 * HOUR_US + 60 * SECOND_US)])
    tasks = [row for _, row in rows(part, TOPICS.partials) if row["kind"] == "task"]
    assert [(r["tool"], r["events"], r["hour_start"]) for r in tasks] == [
        ("a", 1, NOW + 2 * HOUR_US)
    ]
    assert [bucket["cost_pusd"] for bucket in tasks[0]["cost_histogram"]] == [60_000_000]


def test_producers_and_cohorts_are_published_every_ten_seconds() -> None:
    """Both come with the input below them; the cohort's row says up to when it is complete."""
    part = started(record(2, usage(1)), record(3, usage(4)))
    part.apply([tick(4, NOW + 5 * SECOND_US)])
    assert [out for out in part.take() if out.topic in (TOPICS.sources, TOPICS.partials)] == []
    part.apply([tick(5, NOW + 10 * SECOND_US)])
    taken = part.take()
    (source,) = [decode(o.value or b"")[1] for o in taken if o.topic == TOPICS.sources]
    (cohort,) = [decode(o.value or b"")[1] for o in taken if o.topic == TOPICS.partials]
    assert (source["highest"], source["missing"], source["version"]) == (4, 2, 5)
    assert (cohort["events"], cohort["watermark"]) == (2, NOW - 20 * SECOND_US)


def test_names_with_separators_do_not_share_a_key() -> None:
    """Two cohorts whose names run together have keys of their own on the partials topic."""
    names = (("a|b", "c"), ("a", "b|c"))
    part = started(*(
        record(2 + k, usage(1 + k, operation_name=operation, request_model=model, cost_pusd=1,
                            cost_source="provider"))
        for k, (operation, model) in enumerate(names)
    ))  # fmt: skip
    part.apply([tick(4, NOW + 10 * SECOND_US)])
    keys = [out.key for out in part.take() if out.topic == TOPICS.partials]
    assert len(set(keys)) == 2
    assert all(key.startswith(b"cohort|") for key in keys)


def test_a_silent_partition_is_woken_until_nothing_waits() -> None:
    """Ticks at the times due close the window, end and forget the task, and then stop."""
    part = started(record(2, usage(1, task_id="t")))
    offset, woken = 3, 0
    due = part.next_due()
    while due is not None and woken < 200:
        now = max(due, part.state.header.time + SECOND_US)
        if now > NOW + 3 * HOUR_US:
            break
        part.apply([tick(offset, now)])
        offset, woken, due = offset + 1, woken + 1, part.next_due()
    assert len(part.state.tasks) == 0
    assert not part.state.cohorts.is_dirty()
    assert not part.state.windows.is_dirty()
    assert woken < 100
