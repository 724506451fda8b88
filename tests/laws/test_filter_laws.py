"""Passing over a tenant is exact: whoever reaches a rule is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.enforcement.policy_ladder import SPANS, SignalRule
from sluice.enforcement.signals import drift
from sluice.enforcement.signals.burn import Term
from sluice.enforcement.watch_signals import Filter, Spent, pool_filter, pool_signal, tenant_signal
from sluice.enforcement.watch_tables import SPEND, USE

DAY_US = 86_400_000_000
TERM = ("pusd", Term(24_000, 0, 0, DAY_US))
ACTION = {"rule_id": "r", "action": "block"}
RULES = [
    {"signal": "burn", "budget_id": "b", "at": "14.4", "min_events": 1},
    {"signal": "burn", "budget_id": "b", "at": "0.37", "windows": "30m/6h", "min_events": 1},
    {"signal": "slo_burn", "target": "99%", "at": "10", "min_events": 1},
    {"signal": "retry_share", "at": "30%", "min_events": 1},
    {"signal": "drift", "at": "8"},
]
# Around every threshold above, for a limit of 24,000 a day.
amounts = st.one_of(
    st.integers(0, 20),
    st.integers(1_000, 2_000).map(lambda n: n * 10),
    st.sampled_from([14_399, 14_400, 14_401, 2_219, 2_220, 2_221]),
)


def rule_of(over: dict[str, Any]) -> SignalRule:
    """A rule whose action does not matter."""
    return SignalRule.model_validate({**ACTION, **over})


@pytest.mark.parametrize("over", RULES, ids=lambda over: f"{over['signal']} {over['at']}")
@given(
    sums=st.lists(amounts, min_size=len(SPANS) * len(SPEND), max_size=len(SPANS) * len(SPEND)),
    seen=st.sampled_from([0, drift.LEARNED, drift.LEARNED + 5]),
    score=st.integers(7_990, 8_010),
)
def test_who_reaches_a_rule_is_looked_at(
    over: dict[str, Any], sums: list[int], seen: int, score: int
) -> None:
    """Whatever the sums are, once the filter has learned the budget."""
    rule = rule_of(over)
    totals = np.array(sums, dtype=np.int64).reshape(1, len(SPANS), len(SPEND))
    levels = np.array([[seen, 0, 1, score]], dtype=np.int64)
    signal = tenant_signal(rule, Spent(totals[0], levels[0], DAY_US), TERM, 1)
    found = Filter(rule)
    found.learn(0, TERM)
    rows = np.zeros(1, dtype=np.int64)
    (may,) = found.reachable(totals, levels, rows, 1, sweep=False)
    assert may or signal is None or not signal.reached


@pytest.mark.parametrize("over", RULES, ids=lambda over: f"{over['signal']} {over['at']}")
def test_who_is_far_from_a_rule_is_passed_over(over: dict[str, Any]) -> None:
    """A filter that lets everyone through would pass the law and save nothing."""
    found = Filter(rule_of(over))
    found.learn(0, TERM)
    sums = {"cost_pusd": 50, "requests": 100, "retries": 1, "judged_pusd": 50, "bad_pusd": 0}
    totals = np.array([[[sums.get(name, 0) for name in SPEND]] * len(SPANS)], dtype=np.int64)
    levels, rows = np.array([[300, 0, 1, 0]]), np.zeros(1, dtype=np.int64)
    assert not found.reachable(totals, levels, rows, 1, sweep=False).any()
    found.forget(0)
    again = found.reachable(totals, levels, rows, 1, sweep=False)
    assert bool(again[0]) is (over["signal"] == "burn")


@given(own=st.integers(0, 300), rest=st.integers(0, 300), at=st.sampled_from(["40%", "50%"]))
def test_who_is_noisy_is_looked_at(own: int, rest: int, at: str) -> None:
    """A tenant whose share of a pool reaches the threshold while others wait."""
    rule = rule_of({"signal": "noisy_neighbour", "at": at, "others_wait_ms": 1, "min_events": 1})
    waits = {"queue_us": 10**6, "waited": 10}
    whole = [[waits.get(name, own + rest) for name in USE], [0, 1, 10]]
    mine = [[{"load": own}.get(name, 0) for name in USE], [0, 0, 0]]
    sums = [np.array([part], dtype=np.int64) for part in (mine, whole)]
    signal = pool_signal(rule, sums[0][0], sums[1][0])
    (may,) = pool_filter([rule], *sums)
    assert may or not signal.reached
