"""One partition applied in order: dedupe, prices, budgets, decisions, dead letters, time."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    NOW,
    POLICY,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    governed,
    partition,
    policy,
    record,
    tick,
    usage,
)

from sluice.metering.sources import SourceKey
from sluice.metering.windows import DELAY_US, WINDOW_US
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode, encode

LATER = NOW + WINDOW_US + DELAY_US + 10_000_000


def outputs(part: Partition, topic: str) -> list[dict[str, Any] | None]:
    """Decoded outputs to one topic since the last call of take(), BudgetRules left out."""
    taken = [
        out for out in part.take() if out.topic == topic and not out.key.startswith(b"budget|")
    ]
    return [decode(out.value)[1] if out.value else None for out in taken]


def test_usage_becomes_a_priced_window_row() -> None:
    """Two events of a minute become one row with their exact cost, published when it closes."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1)), record(3, usage(2)), tick(4, LATER)])
    (row,) = outputs(part, TOPICS.windows)
    assert row is not None
    assert (row["events"], row["input_tokens"], row["output_tokens"]) == (2, 200, 200)
    assert row["cost_pusd"] == 200 * 50_000 + 200 * 250_000
    assert row["version"] == 4


def test_a_resend_is_applied_once_and_a_hole_is_recovered() -> None:
    """A repeated number changes nothing; a late missing one is applied and counted."""
    part, _, start = governed()
    sent = [usage(1), usage(3), usage(3), usage(2), usage(2)]
    part.apply([*start, *(record(2 + i, event) for i, event in enumerate(sent))])
    counters = part.state.header.counters
    assert counters["events"] == 3
    assert counters["duplicates"] == 2
    assert counters["recovered"] == 1


def test_events_without_numbers_are_deduplicated_by_id() -> None:
    """A producer without sequences is protected by (source, event_id) within the window."""
    part, _, start = governed()
    foreign = usage(7, source_seq=None)
    part.apply([*start, record(2, foreign), record(3, foreign)])
    assert part.state.header.counters["events"] == 1


def test_old_usage_without_numbers_goes_to_a_lane() -> None:
    """Where duplicates cannot be told any more, usage is counted unprotected in the late lane."""
    part, _, start = governed()
    old = NOW - 7_200_000_000
    part.apply([*start, record(2, usage(1, source_seq=None, occurred_at=old, started_at=old))])
    assert part.state.header.counters["unprotected"] == 1
    assert [key.lane for key in part.state.windows.rows] == ["2027-01-15"]


def _decisions(part: Partition) -> tuple[dict[str, Any], dict[str, Any]]:
    found = [d for d in outputs(part, TOPICS.control) if d]
    return found[0], found[-1]


def test_a_rate_limit_comes_before_the_block() -> None:
    """Reaching 80 % limits the rate with reason, evidence and expiry; 100 % replaces it."""
    part, _, start = governed()
    cost_400 = {"input_tokens": 3000, "output_tokens": 1000}
    part.apply([*start, *(record(2 + i, usage(1 + i, **cost_400)) for i in range(3))])
    limit, block = _decisions(part)
    assert (limit["action"], limit["sequence"]) == ("rate_limit", 3)
    assert limit["params"]["rate_per_minute"] == 30
    assert limit["evidence"]["observed"] == 800_000_000
    assert limit["evidence"]["limit"] == 800_000_000
    assert "acme has spent 0.000800 of 0.001000 USD (80 %)" in limit["reason"]
    assert (block["action"], block["supersedes"]) == ("block", limit["decision_id"])
    assert block["expires_at"] > NOW
    assert (block["policy_version"], block["epoch"]) == (policy().version, 1)


def test_a_decision_ends_with_its_period() -> None:
    """When the day is over the standing decision is withdrawn with a tombstone."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, input_tokens=0, output_tokens=4000))])
    (block,) = outputs(part, TOPICS.control)
    assert block is not None
    assert part.next_due() is not None
    part.apply([tick(3, block["expires_at"])])
    assert outputs(part, TOPICS.control) == [None]


def test_a_raised_limit_lifts_the_block() -> None:
    """A new policy version rejudges standing ledgers: below the thresholds means allow."""
    part, references, start = governed()
    part.apply([*start, record(2, usage(1, input_tokens=0, output_tokens=4000))])
    part.take()
    raised = references.put(policy(POLICY.replace("0.001", "0.009")))
    part.apply([activate(3, raised)])
    (lifted,) = outputs(part, TOPICS.control)
    assert lifted is not None
    assert (lifted["action"], lifted["reason_code"]) == ("allow", "BUDGET_RESTORED")


def test_a_withdrawn_policy_lifts_its_decisions() -> None:
    """Taking a policy out of force removes what it decided."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, input_tokens=0, output_tokens=4000))])
    part.take()
    part.apply([activate(3, ("policy", "test", ""))])
    assert outputs(part, TOPICS.control) == [None]
    part.apply([record(4, usage(2, output_tokens=4000))])
    assert outputs(part, TOPICS.control) == []


def test_bad_records_go_to_the_dead_letter_topic_and_harm_nobody() -> None:
    """Each bad value is kept whole with reason and position; its neighbours are applied."""
    part, _, start = governed()
    good = record(2, usage(1))
    bad = [
        record(3, b"garbage"),
        record(4, usage(2, input_tokens=-1)),
        record(5, usage(3, cache_read_input_tokens=101)),
        record(6, usage(4, tenant_id=""), key=""),
        record(7, usage(5, occurred_at=NOW + 10**12)),
    ]
    part.apply([*start, good, *bad, record(8, usage(6))])
    letters = [out for out in part.take() if out.topic == TOPICS.dlq]
    assert [out.value for out in letters] == [r.value for r in bad]
    headers = [dict(out.headers or []) for out in letters]
    assert [int(h["offset"]) for h in headers] == [3, 4, 5, 6, 7]
    assert part.state.header.counters["events"] == 2
    assert part.state.header.counters["dead_letters"] == 5
    mark = part.state.sources.rows[SourceKey("gw", "e1", "acme")]
    assert (mark.highest, mark.missing) == (6, ((4, 4),))


def test_a_version_that_has_not_arrived_is_waited_for() -> None:
    """Nothing behind an Activate is applied before its version is at hand."""
    references = FakeReferences()
    part = partition(references)
    wanted = policy()
    name = ("policy", wanted.policy_id, wanted.version)
    records = [activate(0, name), record(1, usage(1))]
    assert part.apply(records) == 0
    assert part.waiting_for == name
    references.put(wanted)
    assert part.apply(records) == 2


def test_an_unpriced_event_is_counted_and_costs_nothing() -> None:
    """Without a price the cost is unknown, never zero by guess: the row says so."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, request_model="unheard-of")), tick(3, LATER)])
    (row,) = outputs(part, TOPICS.windows)
    assert row is not None
    assert (row["unpriced"], row["cost_pusd"]) == (1, 0)


def test_versions_in_force_are_to_be_named_again_after_a_day() -> None:
    """A reader that begins later learns them; naming them again changes nothing and is noted."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1))])
    assert not part.announce_due()
    day = 24 * 3_600_000_000
    part.apply([FakeRecord(3, (NOW + day) // 1000 + 1, None, encode("Tick", {}))])
    assert part.announce_due()
    part.take()
    names = part.in_force()
    part.apply([activate(4 + n, name, at=NOW + day + 10**6) for n, name in enumerate(names)])
    assert not part.announce_due()
    assert part.in_force() == names
    assert [out for out in part.take() if out.topic == TOPICS.control] == []
