"""Signals, ladders and outcomes inside a partition: from records to decisions and rows."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    partition,
    policy,
    record,
    tick,
    usage,
)

from sluice.metering.prices import default_book
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode

SECOND_US = 1_000_000
LADDER = """
policy_id: graduated
budgets:
  - budget_id: tenant-day
    scope: [tenant_id]
    unit: usd
    limit: "1"
    period: day
    rules:
      - {rule_id: stop, at: 100%, action: block}
risk:
  hold_s: 0
  keep_s: 20
  dwell_s: 10
  expires_after_s: 60
  rules:
    - {rule_id: circles, signal: loop, at: 1, action: block, boundary: task}
"""
TOOL: dict[str, Any] = {
    "event_type": "tool", "operation_name": "execute_tool", "tool_name": "s", "task_id": "t",
    "tool_args_hash": "x", "result_hash": "r", "input_tokens": 0, "output_tokens": 0,
    "cost_pusd": 10, "cost_source": "provider",
}  # fmt: skip


def begun() -> tuple[FakeReferences, list[FakeRecord], tuple[str, str, str]]:
    """References, the records that put a book and the ladder in force, and the ladder's name."""
    references = FakeReferences()
    book, name = references.put(default_book()), references.put(policy(LADDER))
    return references, [activate(0, book), activate(1, name)], name


def circling(first: int) -> list[FakeRecord]:
    """A task that calls the same tool five times, a second apart, and time after it."""
    calls = [record(first + n, usage(n + 1, **TOOL), at=NOW + n * SECOND_US) for n in range(5)]
    return [*calls, tick(first + 5, NOW + 10 * SECOND_US)]


def decided(out: list[OutRecord], rule: str = "risk") -> list[dict[str, Any] | None]:
    """Decisions of a section on the control topic, None for a tombstone."""
    found = [o for o in out if o.topic == TOPICS.control and f"|{rule}|".encode() in o.key]
    return [decode(o.value)[1] if o.value else None for o in found]


def test_a_circling_task_is_blocked_and_let_go_again() -> None:
    """Decisions per priority under its ceiling say task and reason; silence eases them."""
    references, start, _ = begun()
    part = partition(references)
    part.apply([*start, *circling(2)])
    blocked = [d for d in decided(part.take()) if d is not None]
    assert {d["scope"]["priority"] for d in blocked} == {"standard", "batch"}
    assert {(d["action"], d["scope"]["task_id"], d["reason_code"]) for d in blocked} == {
        ("block", "t", blocked[0]["reason_code"])
    }
    assert "loop" in blocked[0]["reason_code"].lower()
    part.apply([tick(20 + n, NOW + (700 + 5 * n) * SECOND_US) for n in range(12)])
    last = decided(part.take())[-1]
    assert last is not None
    assert last["action"] == "allow"


def test_usage_in_the_second_of_its_policy_is_looked_at() -> None:
    """Where nothing was watched for before, the first look comes at the next border, and counts."""
    references, start, _ = begun()
    part = partition(references)
    part.apply([*start, *(record(2 + n, usage(n + 1, **TOOL)) for n in range(5))])
    part.apply([tick(7, NOW + 4_999_000)])
    assert decided(part.take()) == []
    part.apply([tick(8, NOW + 5 * SECOND_US)])
    assert [d["action"] for d in decided(part.take()) if d is not None] == ["block", "block"]


def test_a_withdrawn_policy_takes_its_ladders_decisions_away() -> None:
    """Tombstones under the keys of what stood."""
    references, start, name = begun()
    part = partition(references)
    part.apply([*start, *circling(2)])
    part.take()
    part.apply([activate(30, (*name[:2], ""), at=NOW + 11 * SECOND_US)])
    assert decided(part.take()) == [None, None]


def test_a_version_with_the_same_ladder_says_again_what_stands() -> None:
    """At the next look, under the same ids and in its own name; nothing of the old one stays."""
    references, start, _ = begun()
    part = partition(references)
    part.apply([*start, *circling(2)])
    before = [d for d in decided(part.take()) if d is not None]
    after = references.put(policy(LADDER.replace('limit: "1"', 'limit: "2"')))
    part.apply([activate(30, after, at=NOW + 11 * SECOND_US)])
    assert decided(part.take()) == []
    assert part.next_due() == NOW + 15 * SECOND_US
    part.apply([tick(31, NOW + 15 * SECOND_US)])
    said = [d for d in decided(part.take()) if d is not None]
    assert {(d["decision_id"], d["action"]) for d in said} == {
        (d["decision_id"], d["action"]) for d in before
    }
    assert {d["policy_version"] for d in said} == {after[2]}


def test_what_a_decision_did_is_published_once_it_ended() -> None:
    """Refusals that name it are counted, and its end says why."""
    references, start, _ = begun()
    part = partition(references)
    part.apply([*start, *circling(2)])
    first = next(d for d in decided(part.take()) if d is not None)
    refusal = usage(9, event_type="admission", outcome="rejected", input_tokens=0, output_tokens=0,
                    decision_id=first["decision_id"], estimated_cost_pusd=5,
                    units=[{"key": "requests", "value": 3}])  # fmt: skip
    part.apply([record(20, refusal, at=NOW + 12 * SECOND_US)])
    part.apply([tick(21 + n, NOW + (700 + 5 * n) * SECOND_US) for n in range(12)])
    rows = [decode(o.value or b"")[1] for o in part.take() if o.topic == TOPICS.outcomes]
    row = {r["decision_id"]: r for r in rows}[first["decision_id"]]
    assert (row["refused"], row["averted_pusd"]) == (3, 5)
    assert row["ended_why"] in {"expired", "superseded"}


def test_what_a_decision_did_does_not_wait_for_the_next_request() -> None:
    """On a silent partition time is asked for until the row of an ended decision is out."""
    references, start, name = begun()
    part = partition(references)
    part.apply([*start, *circling(2)])
    ends_at = NOW + 11 * SECOND_US
    part.apply([activate(30, (*name[:2], ""), at=ends_at)])
    for offset in range(31, 40):
        due = part.next_due()
        if not part.state.outcomes.is_dirty():
            break
        assert due is not None
        assert due <= ends_at + 10 * SECOND_US
        part.apply([tick(offset, due)])
    rows = [decode(o.value or b"")[1] for o in part.take() if o.topic == TOPICS.outcomes]
    assert [(row["ended_why"], row["ended_at"]) for row in rows] == [("lifted", ends_at)] * 2


def test_a_restart_on_a_ladder_changes_no_byte() -> None:
    """A successor after every record says what one owner would have said."""
    references, start, _ = begun()
    records = [*start, *circling(2)]
    records += [tick(20 + n, NOW + (60 + 30 * n) * SECOND_US) for n in range(40)]
    whole = partition(references)
    whole.apply(records)
    wanted = [o for o in whole.take() if o.topic != TOPICS.meter_state]
    stored: dict[bytes, bytes | None] = {}
    said: list[OutRecord] = []
    for one in records:
        part: Partition = partition(references, stored=stored)
        part.apply([one])
        for out in part.take():
            if out.topic == TOPICS.meter_state:
                stored[out.key] = out.value
            else:
                said.append(out)
    assert said == wanted


def test_a_partition_that_falls_silent_is_looked_at_once_more() -> None:
    """A loop that was seen before its policy came is acted on although nothing more arrives."""
    references, (book, ladder), _ = begun()
    part = partition(references)
    part.apply([book, *circling(2)[:-1], tick(7, NOW + 20 * SECOND_US)])
    part.apply([FakeRecord(8, (NOW + 21 * SECOND_US) // 1000, None, ladder.value)])
    part.take()
    due = part.next_due()
    assert due is not None
    part.apply([tick(9, max(due, NOW + 26 * SECOND_US))])
    assert [d["action"] for d in decided(part.take()) if d] == ["block", "block"]
