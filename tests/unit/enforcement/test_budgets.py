"""Ledgers: what an event takes of each unit, whose ledger it is, and how periods let go of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, arrived

from sluice.enforcement import budgets, burn
from sluice.enforcement.amounts import amount, scope_of
from sluice.enforcement.budgets import Ledger
from sluice.enforcement.policy import Budget
from sluice.enforcement.units import shown_amount, shown_share, whole_amount
from sluice.wire.scopes import scope_fields, scope_text

MINUTE = 60_000_000
HOUR = 60 * MINUTE


def budget(**over: Any) -> Budget:
    """A soft budget of 100 tokens."""
    rule = {"rule_id": "stop", "at": "1", "action": "block"}
    fields = {"budget_id": "b", "scope": ["tenant_id"], "unit": "tokens", "limit": 100,
              "period": "day", "rules": [rule]}  # fmt: skip
    return Budget.model_validate(fields | over)


def rolling(length: str = "1h") -> tuple[Budget, Ledger]:
    """A rolling budget and its ledger, opened NOW."""
    rule = budget(period="rolling", rolling=length)
    period = budgets.charged_period(rule, NOW)
    return rule, budgets.open_ledger(rule, "acme", "tenant_id=acme", period, NOW)


@pytest.mark.parametrize(
    ("unit", "over", "used"),
    [
        ("pusd", {}, 7),
        ("tokens", {}, 200),
        ("input_tokens", {"input_tokens": 3}, 3),
        ("output_tokens", {"output_tokens": 4}, 4),
        ("gpu_us", {"gpu_us": 5}, 5),
        ("gpu_us", {}, 0),
        ("kv_byte_ms", {"kv_byte_ms": 6}, 6),
        ("requests", {}, 1),
        ("requests", {"outcome": "error"}, 1),
        ("requests", {"outcome": "throttled"}, 0),
        ("requests", {"event_type": "tool"}, 0),
        ("requests", {"event_type": "correction"}, 0),
        ("tool_calls", {"event_type": "tool"}, 1),
        ("tool_calls", {"event_type": "tool", "outcome": "rejected"}, 0),
        ("steps", {}, 1),
        ("steps", {"attempt": 2}, 0),
        ("steps", {"attempt_kind": "hedge"}, 0),
        ("concurrency", {}, 0),
        ("tokens", {"event_type": "correction", "input_tokens": -7, "output_tokens": 2}, -5),
    ],
)
def test_what_an_event_takes(unit: str, over: dict[str, Any], used: int) -> None:
    """Measured amounts, calls that ran, and signed deltas of corrections."""
    assert amount(unit, arrived(**over), 7) == used


def test_an_event_without_a_price_takes_no_money() -> None:
    """Unknown is not guessed; it is counted elsewhere."""
    assert amount("pusd", arrived(), None) == 0


def test_a_scope_is_made_of_the_events_own_fields() -> None:
    """Fields in their order, values encoded; the model is the one that was asked for."""
    of = budget(scope=["tenant_id", "model"])
    event = arrived(tenant_id="a,b", request_model="m=1", response_model="other")
    scope = scope_of(of, event)
    assert scope == "model=m%3D1,tenant_id=a%2Cb"
    assert scope_fields(scope) == {"model": "m=1", "tenant_id": "a,b"}


def test_values_with_percent_signs_come_back() -> None:
    """Encoding is undone in the opposite order."""
    assert scope_fields(scope_text([("pool", "100%25,=")])) == {"pool": "100%25,="}


def test_usage_that_does_not_match_or_lacks_a_field_does_not_count() -> None:
    """`where` and null fields keep an event out of a budget."""
    assert scope_of(budget(where={"pool": "a"}), arrived(pool="b")) is None
    assert scope_of(budget(where={"pool": "a"}), arrived(pool="a")) == "tenant_id=acme"
    assert scope_of(budget(scope=["tenant_id", "task_id"]), arrived(task_id=None)) is None


def test_a_rolling_sum_is_exact_where_slices_meet() -> None:
    """An hour of 60 slices: usage leaves at the border of the slice after its hour, not earlier."""
    rule, ledger = rolling()
    budgets.charge(ledger, rule, 10, NOW, NOW)
    budgets.charge(ledger, rule, 1, NOW + 30 * MINUTE, NOW + 30 * MINUTE)
    assert not budgets.pass_slices(ledger, rule, NOW + HOUR)
    assert (ledger.settled, ledger.period_start) == (11, NOW)
    assert budgets.pass_slices(ledger, rule, NOW + HOUR + MINUTE)
    assert ledger.settled == 1
    assert budgets.next_due(ledger) == NOW + HOUR + 2 * MINUTE
    budgets.pass_slices(ledger, rule, NOW + 9 * HOUR)
    assert (ledger.settled, budgets.next_due(ledger)) == (0, None)


def test_late_usage_finds_its_slice_or_has_left() -> None:
    """A rolling ledger takes what was admitted within its length, and no more than that."""
    rule, ledger = rolling()
    budgets.charge(ledger, rule, 5, NOW - 59 * MINUTE, NOW)
    budgets.charge(ledger, rule, 7, NOW - 61 * MINUTE, NOW)
    assert ledger.settled == 5
    budgets.pass_slices(ledger, rule, NOW + 2 * MINUTE)
    assert ledger.settled == 0


def test_a_changed_length_keeps_what_it_covers() -> None:
    """From one hour to two nothing is lost; back to one, what is older goes."""
    rule, ledger = rolling()
    budgets.charge(ledger, rule, 5, NOW - 50 * MINUTE, NOW)
    two, half = budget(period="rolling", rolling="2h"), budget(period="rolling", rolling="30m")
    budgets.resize(ledger, budgets.slice_us(rule), two, NOW)
    assert ledger.settled == 5
    budgets.resize(ledger, budgets.slice_us(two), half, NOW)
    assert ledger.settled == 0


def test_sums_beyond_64_bits_are_refused_before_anything_is_added() -> None:
    """A check raises where a charge could not add."""
    period = budgets.charged_period(budget(), NOW)
    ledger = budgets.open_ledger(budget(), "acme", "tenant_id=acme", period, NOW)
    ledger.settled = 2**63 - 10
    budgets.check(ledger, 9, correction=False)
    with pytest.raises(OverflowError):
        budgets.check(ledger, 10, correction=False)


def test_a_raise_holds_until_its_end() -> None:
    """Raises add up while they last; the ledger knows when the next one ends."""
    entry = {"add": 10, "by": "kim", "reason": "launch", "scope": "acme"}
    until = ["2027-01-16T00:00:00Z", "2027-01-17T00:00:00+01:00"]
    rule = budget(raises=[entry | {"until": end} for end in until], limits={"acme": 50})
    ends = [raised.until_us for raised in rule.raises]
    assert ends == [1_800_057_600_000_000, 1_800_140_400_000_000]
    limits = [rule.limit_for("tenant_id=acme", at) for at in (NOW, *ends)]
    assert limits == [70, 60, 50]
    assert rule.limit_until("tenant_id=acme", ends[0]) == ends[1]
    assert rule.limit_for("tenant_id=other", NOW) == 100


def test_burn_of_the_last_minutes_and_hours() -> None:
    """Each window covers at least its length and forgets what is longer ago."""
    rings: list[int] = []
    minute = burn.add(rings, 0, 1_000, 10)
    minute = burn.add(rings, minute, 1_004, 5)
    assert burn.spent(rings, minute, 1_004) == {"5m": 15, "1h": 15, "6h": 15}
    assert burn.spent(rings, minute, 1_006) == {"5m": 5, "1h": 15, "6h": 15}
    assert burn.spent(rings, minute, 1_075) == {"5m": 0, "1h": 0, "6h": 15}
    assert burn.spent(rings, minute, 1_500) == {"5m": 0, "1h": 0, "6h": 0}


@pytest.mark.parametrize(
    ("text", "unit", "whole", "shown"),
    [
        ("0.5", "usd", 5 * 10**11, "0.500000 USD"),
        ("2.5", "gpu_seconds", 2_500_000, "2.5 gpu seconds"),
        ("1e3", "kv_byte_seconds", 10**6, "1,000 kv byte seconds"),
        ("1200", "tokens", 1200, "1,200 tokens"),
    ],
)
def test_amounts_are_read_and_shown(text: str, unit: str, whole: int, shown: str) -> None:
    """People write and read the policy's unit; ledgers hold whole ones."""
    ledger_unit = budget(unit=unit).ledger_unit
    assert whole_amount(text, unit) == whole
    assert shown_amount(whole, ledger_unit) == shown
    assert shown_share(0, whole, ledger_unit).endswith(f" of {shown}")
