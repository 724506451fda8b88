"""Corrections of stored usage: what they carry, what is left out, what a person may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import MODEL, NOW
from tests.stored import as_stored, original

from sluice.errors import ConfigError
from sluice.feedback.by_hand import Wanted, correct
from sluice.feedback.rerate import Rerating
from sluice.feedback.standing import standing
from sluice.metering.prices import PriceBook, PriceEntry
from sluice.metering.rates import Tier
from sluice.metering.validate import MAX_AGE_US

HOUR = 3_600_000_000


def book(**rates: int) -> PriceBook:
    """A book of the test model."""
    return PriceBook("t", "hand", "none", (PriceEntry(MODEL, None, (Tier("", 0, rates),)),))


def one(row: dict[str, Any], **rates: int) -> dict[str, Any]:
    """The only correction of an event under new rates."""
    (made,) = Rerating(book(**rates), NOW).corrections([[row]])
    return made


def left_out(row: dict[str, Any], *more: dict[str, Any], **rates: int) -> dict[str, int]:
    """Why an event has no correction."""
    rerating = Rerating(book(**(rates or {"input": 1, "output": 1})), NOW)
    assert list(rerating.corrections([[row, *more]])) == []
    return dict(rerating.summary.left_out)


def test_a_correction_carries_the_original_s_identity_and_no_measurement() -> None:
    """Who, where and when are the original's; times, bytes and reservations are not repeated."""
    row = original(1, 50, tool_name="search", slo_outcome="slow", attempt=2, attempt_kind="hedge",
                   latency_us=5, gpu_us=6, reservation_id="r", lease_id="l", max_output_tokens=9,
                   estimated_cost_pusd=3, risk_flags=["x"])  # fmt: skip
    row |= {"baseline_q50_pusd": 10, "baseline_q95_pusd": 20}
    made = as_stored(one(row, input=1, output=2))
    same = ("tenant_id", "project_id", "request_model", "tool_name", "occurred_at", "started_at",
            "slo_outcome", "attempt", "attempt_kind", "operation_name", "provider_name", "outcome",
            "baseline_q50_pusd", "baseline_q95_pusd")  # fmt: skip
    assert {name: made[name] for name in same} == {name: row[name] for name in same}
    assert made["corrects_event_id"] == row["event_id"]
    assert (made["original_cost_pusd"], made["cost_pusd"], made["cost_source"]) == (
        50, 250, "estimate")  # fmt: skip
    assert made["input_tokens"] == made["output_tokens"] == 0
    assert made["price_book_version"] == book(input=1, output=2).version
    gone = ("latency_us", "gpu_us", "reservation_id", "lease_id", "max_output_tokens",
            "estimated_cost_pusd")  # fmt: skip
    assert all(made[name] is None for name in gone)
    assert (made["risk_flags"], made["attributes"]) == ([], [{"key": "reason", "value": "rerate"}])


def test_usage_without_a_price_gets_one() -> None:
    """Its correction has no original cost, and is counted as newly priced."""
    rerating = Rerating(book(input=1, output=2), NOW)
    (made,) = rerating.corrections([[original(1, None)]])
    assert (made["original_cost_pusd"], made["cost_pusd"]) == (None, 300)
    assert rerating.summary.total().newly_priced == 1


def test_what_others_set_is_left_out_with_its_reason() -> None:
    """Bills, manual corrections, missing prices, old usage, lone corrections, sums too large."""
    provider = original(1, 0, cost_source="provider")
    assert left_out(provider) == {"billed by the provider": 1}
    assert left_out(original(1, 5), input=2**63 - 1, output=1) == {"a sum beyond 64 bits": 1}
    assert left_out(original(1, 5, request_model="?")) == {"no price in this book": 1}
    old = NOW - MAX_AGE_US + HOUR // 2
    assert left_out(original(1, 5, occurred_at=old, started_at=old)) == {"too old": 1}
    stands = standing([original(1, 5)])
    assert stands is not None
    by_hand = as_stored(correct(stands, Wanted("refund", cost_pusd=1), None, NOW))
    assert left_out(original(1, 5), by_hand) == {"corrected by hand": 1}
    assert left_out(by_hand) == {"original not stored": 1}


def by_hand(row: dict[str, Any], wanted: Wanted, **rates: int) -> dict[str, Any]:
    """A manual correction of an event."""
    stands = standing([row])
    assert stands is not None
    return as_stored(correct(stands, wanted, book(**rates) if rates else None, NOW))


def test_other_tokens_are_priced_by_the_event_s_book() -> None:
    """Saying what a count shall be gives its signed difference, in tokens and in cost."""
    made = by_hand(original(1, 300), Wanted("r", {"output_tokens": 40}), input=1, output=2)
    assert (made["output_tokens"], made["input_tokens"], made["cost_pusd"]) == (-60, 0, -120)
    unpriced = by_hand(original(1, None), Wanted("r", {"output_tokens": 40}))
    assert (unpriced["output_tokens"], unpriced["cost_pusd"]) == (-60, None)
    billed = original(1, 77, cost_source="provider")
    kept = by_hand(billed, Wanted("r", {"output_tokens": 40}), input=1, output=2)
    assert (kept["output_tokens"], kept["cost_pusd"]) == (-60, 0)


def test_a_cost_can_be_set_and_an_event_voided() -> None:
    """--cost says what it shall cost; --void takes back tokens, lists, classes and cost."""
    row = original(1, 300, classes=[("input", 100, 100), ("output", 100, 200)],
                   units=[{"key": "images", "value": 2}])  # fmt: skip
    assert by_hand(row, Wanted("r", cost_pusd=1000))["cost_pusd"] == 700
    void = by_hand(row, Wanted("r", void=True))
    assert (void["cost_pusd"], void["input_tokens"], void["output_tokens"]) == (-300, -100, -100)
    assert void["units"] == [{"key": "images", "value": -2}]
    assert {part["key"]: part["cost_pusd"] for part in void["usage_by_class"]} == {
        "input": -100, "output": -200}  # fmt: skip


@pytest.mark.parametrize(("wanted", "sentence"), [
    (Wanted("r"), "say one of"),
    (Wanted("r", {"output_tokens": 1}, cost_pusd=1), "say one of"),
    (Wanted("", void=True), "--reason has 1 to 256 bytes"),
    (Wanted("r", cost_pusd=300), "stands at that already"),
    (Wanted("r", {"reasoning_output_tokens": 101}), "reasoning above output tokens: 101 > 100"),
    (Wanted("r", {"cache_read_input_tokens": 101}), "cached tokens above input tokens: 101 > 100"),
])  # fmt: skip
def test_a_wrong_request_is_refused(wanted: Wanted, sentence: str) -> None:
    """What says nothing, two things or a contradiction gets a sentence, not a correction."""
    with pytest.raises(ConfigError, match=sentence):
        by_hand(original(1, 300), wanted, input=1, output=2)


def test_manual_corrections_add_up() -> None:
    """The second correction starts from where the first one left the event."""
    row = original(1, 300)
    first = by_hand(row, Wanted("r", {"output_tokens": 40}), input=1, output=2)
    stands = standing([row, first])
    assert stands is not None
    assert (stands.net_pusd, stands.event["output_tokens"]) == (180, 40)
    second = correct(stands, Wanted("r", {"output_tokens": 100}), book(input=1, output=2), NOW)
    assert (second["output_tokens"], second["cost_pusd"]) == (60, 120)
    assert second["event_id"] != first["event_id"]


def test_old_events_are_refused_by_hand_too() -> None:
    """The meter would dead-letter it, so it is not published."""
    old = NOW - 40 * 24 * HOUR
    with pytest.raises(ConfigError, match="too old"):
        by_hand(original(1, 5, occurred_at=old, started_at=old), Wanted("r", void=True))
