"""Budgets on the control topic: which are in force, whom they concern, what holds in doubt."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.admission.messages import NOW, budget_rule, lease, rule_key

from sluice.admission.budget_rule import SITUATIONS, BudgetRule, UnknownScope, read_rule
from sluice.admission.control_state import ControlState
from sluice.admission.verdict import AdmissionRequest
from sluice.wire.codec import decode
from sluice.wire.scopes import scope_text

ACME = AdmissionRequest("acme", "chat", "m1")


def rule(**over: Any) -> BudgetRule:
    """A budget as read from its record."""
    return read_rule(b"k", decode(budget_rule(**over))[1])


def told(*messages: tuple[bytes, bytes | None]) -> ControlState:
    """A state after these messages of partition 0."""
    state = ControlState()
    for key, value in messages:
        state.apply(0, key, value, NOW)
    return state


def limits(state: ControlState) -> list[int]:
    """Limits of the budgets that guard requests."""
    return [found.limit for found in state.budgets.guarding]


def test_the_newest_word_of_a_key_counts() -> None:
    """Only a greater (epoch, sequence) replaces a budget, as it does a decision."""
    key = rule_key()
    state = told((key, budget_rule(sequence=5)), (key, budget_rule(sequence=4, limit=1)))
    assert limits(state) == [1000]
    assert state.counts["stale"] == 1
    state.apply(0, key, budget_rule(epoch=2, sequence=0, limit=7), NOW)
    assert limits(state) == [7]


def test_a_budget_is_in_force_while_any_partition_says_so() -> None:
    """A tombstone takes one partition's word back; the last one lifts the budget."""
    state = told((rule_key(), budget_rule()), (rule_key(partition=1), budget_rule()))
    state.apply(0, rule_key(), None, NOW)
    assert limits(state) == [1000]
    state.apply(1, rule_key(partition=1), None, NOW)
    assert limits(state) == []
    state.apply(0, rule_key(), budget_rule(), NOW)
    assert limits(state) == [], "old news does not come back after a tombstone"


def test_of_two_partitions_the_later_word_holds() -> None:
    """While a policy is switched, the partition that switched later says what holds."""
    later = budget_rule(limit=9, issued_at=NOW + 1)
    first = (rule_key(partition=1), later), (rule_key(), budget_rule())
    assert limits(told(*first)) == limits(told(*reversed(first))) == [9]


def test_shadow_budgets_are_held_and_never_guard() -> None:
    """A shadow budget can be shown, and refuses nothing; a mode nobody knows is enforced."""
    assert limits(told((rule_key(), budget_rule(mode="shadow")))) == []
    assert limits(told((rule_key(), budget_rule(mode="practice")))) == [1000]


def test_soft_budgets_guard_only_where_they_fail_closed() -> None:
    """A soft budget refuses nothing before it runs, unless a fail rule of its says closed."""
    closed = [{"situation": "no_price", "action": "closed"}]
    assert limits(told((rule_key(), budget_rule(hard=False)))) == []
    assert limits(told((rule_key(), budget_rule(hard=False, fail=closed)))) == [1000]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_holds_in_doubt(situation: str) -> None:
    """Hard budgets are closed and soft ones open, unless the rule says otherwise."""
    said = {action: [{"situation": situation, "action": action}] for action in ("open", "closed")}
    assert (rule().fails(situation), rule(hard=False).fails(situation)) == ("closed", "open")
    assert rule(fail=said["open"]).fails(situation) == "open"
    assert rule(hard=False, fail=said["closed"]).fails(situation) == "closed"
    garbled = [{"situation": situation, "action": "maybe"}]
    assert rule(hard=False, fail=garbled).fails(situation) == "closed"


def test_whom_a_budget_concerns() -> None:
    """`where` must be met, and a budget by tool or model concerns only what has one."""
    premium = [{"key": "model", "value": "m1"}]
    assert rule(where=premium).concerns(ACME)
    assert not rule(where=premium).concerns(AdmissionRequest("acme", "chat", "m2"))
    assert not rule(scope=["tenant_id", "tool_name"]).concerns(ACME)
    assert rule(scope=["tenant_id", "end_user_hash"]).concerns(ACME)


def test_the_ledger_of_a_request() -> None:
    """Fields are sorted and reserved characters encoded; a missing identity is named."""
    odd = AdmissionRequest("a=b,c%", "chat", "m1")
    scoped = rule(scope=["tenant_id", "project_id"])
    assert scoped.scope_of(odd) == "project_id=chat,tenant_id=a%3Db%2Cc%25"
    by_user = rule(scope=["tenant_id", "end_user_hash"])
    assert by_user.scope_of(ACME) == UnknownScope("end_user_hash")
    assert rule(scope=[]).scope_of(ACME) == scope_text([]) == ""


def test_periods_and_limits() -> None:
    """Calendar periods follow the time zone; rolling and per task have one period."""
    assert rule().span_at(NOW).period_id == "2027-01-15"
    assert rule(period="task").span_at(NOW) == ("task", None)
    raised = rule(limits=[{"key": "tenant_id=acme", "value": 5}])
    assert (raised.limit_of("tenant_id=acme"), raised.limit_of("tenant_id=x")) == (5, 1000)


def test_grants_to_others_are_passed_over() -> None:
    """A point that knows its holder keeps its own leases only."""
    state = ControlState(holder="gw")
    state.apply(0, b"mine", lease(), NOW)
    state.apply(0, b"theirs", lease(holder="gw2"), NOW)
    assert (set(state.leases), state.counts["of_others"]) == ({b"mine"}, 1)


def test_a_ledger_is_named_by_whose_usage_it_counts() -> None:
    """One ledger of all tenants is told as such; one of a single tenant is not."""
    rules = {
        "all tenants": budget_rule(scope=[]),
        "everything": budget_rule(scope=[], where=[{"key": "tenant_id", "value": "acme"}]),
    }
    for words, message in rules.items():
        assert read_rule(b"k", decode(message)[1]).whom("") == words
    assert read_rule(b"k", decode(budget_rule(scope=["model"]))[1]).whom("model=m") == "model=m"
