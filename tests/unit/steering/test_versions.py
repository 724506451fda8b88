"""Versions of policies: which is in force, what differs, what a raise makes of one."""

from __future__ import annotations

import pytest
from tests.unit.admission.messages import NOW, budget_rule, rule_key

from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_file import load_policy
from sluice.errors import ConfigError
from sluice.steering.control import Standing
from sluice.steering.versions import (
    Change,
    Published,
    before,
    current,
    differences,
    in_force,
    pick,
    raised,
    tellers,
)

TEXT = """
policy_id: p
budgets:
  - budget_id: month
    scope: [tenant_id]
    unit: usd
    limit: "50"
    limits: {acme: "400"}
    period: month
    rules: [{rule_id: stop, at: 100%, action: block}]
  - budget_id: tokens
    scope: [project_id, tenant_id]
    unit: tokens
    limit: 1000
    period: day
    rules: [{rule_id: stop, at: 100%, action: block}]
"""
DAY_US = 86_400_000_000


def policy(old: str = "", new: str = "") -> Policy:
    """The policy with one part of its text replaced."""
    return load_policy(TEXT.replace(old, new), "p")


FIRST, SECOND, THIRD = policy(), policy('"50"', '"60"'), policy("policy_id: p", "policy_id: q")
VERSIONS = [Published(FIRST, 1), Published(SECOND, 2), Published(THIRD, 3)]


def test_partitions_say_what_is_in_force() -> None:
    """The newest rule of each partition's owner counts; policies are kept apart."""
    standing = Standing()
    said = [
        ("b", 0, 1, "v1"), ("c", 0, 5, "v2"), ("b", 1, 4, "v1"), ("b", 2, 9, "v2"),
    ]  # fmt: skip
    for budget, partition, sequence, version in said:
        value = budget_rule(budget_id=budget, source_partition=partition, sequence=sequence,
                            policy_version=version)  # fmt: skip
        standing.take(partition, rule_key(budget, partition), value, NOW)
    assert in_force(standing) == {("p", "v1"): [1], ("p", "v2"): [0, 2]}
    standing.take(2, rule_key("b", 2), None, NOW)
    assert in_force(standing) == {("p", "v1"): [1], ("p", "v2"): [0]}


def test_each_kind_of_budget_is_said_where_it_is_kept() -> None:
    """Budgets of tenants by every usage partition, those that span tenants by one more."""
    both = policy("scope: [project_id, tenant_id]", "scope: [project_id]")
    assert tellers(FIRST, 3) == [0, 1, 2]
    assert tellers(both, 3) == [0, 1, 2, 3]


def test_versions_are_picked_by_their_first_digits() -> None:
    """One that fits is enough; none or several is an error that names them."""
    assert pick(VERSIONS, "p", SECOND.version[:6]) == SECOND
    assert pick(VERSIONS, None, THIRD.version) == THIRD
    with pytest.raises(ConfigError, match="no policy q version"):
        pick(VERSIONS, "q", SECOND.version)
    with pytest.raises(ConfigError, match="is ambiguous: p "):
        pick(VERSIONS, None, "")


def test_what_was_switched_on_last_is_current() -> None:
    """Publishing an old version again makes it the current one, and the other the one before."""
    assert (current(VERSIONS, "p"), before(VERSIONS, "p")) == (SECOND, FIRST)
    again = [*VERSIONS[1:], Published(FIRST, 9)]
    assert (current(again, "p"), before(again, "p")) == (FIRST, SECOND)
    with pytest.raises(ConfigError, match="one version only"):
        before(VERSIONS, "q")
    with pytest.raises(ConfigError, match="no policy r was published"):
        current(VERSIONS, "r")


def test_differences_are_values_with_their_paths() -> None:
    """Amounts in their unit, parts by their id; what is equal is left out."""
    assert differences(FIRST, FIRST) == []
    assert differences(FIRST, SECOND) == [
        Change("budgets[month].limit", "50.000000 USD", "60.000000 USD")
    ]
    assert differences(FIRST, policy("limit: 1000", "limit: 2000")) == [
        Change("budgets[tokens].limit", "1,000 tokens", "2,000 tokens")
    ]
    gone = policy('    limits: {acme: "400"}\n', "")
    assert differences(FIRST, gone) == [
        Change("budgets[month].limits.acme", "400.000000 USD", None)
    ]


def test_a_raise_is_a_version_with_its_reason() -> None:
    """The limit of that scope grows until the end; who and why stand in the difference."""
    made = raised(FIRST, "month", "tenant_id=acme", "25.5", NOW + DAY_US, "ann", "launch", NOW)
    assert (made.scope, made.unit) == ("tenant_id=acme", "pusd")
    assert (made.before, made.after) == (400 * 10**12, 425_500_000_000_000)
    month = made.policy.by_id["month"]
    assert month.limit_for("tenant_id=other", NOW) == 50 * 10**12
    assert month.limit_for("tenant_id=acme", NOW + DAY_US) == 400 * 10**12
    assert made.policy.version != FIRST.version
    told = {change.path: change.after for change in differences(FIRST, made.policy)}
    assert told == {
        "budgets[month].raises[1].add": "25.500000 USD",
        "budgets[month].raises[1].by": "ann",
        "budgets[month].raises[1].reason": "launch",
        "budgets[month].raises[1].scope": "tenant_id=acme",
        "budgets[month].raises[1].until": "2027-01-16T08:00:00Z",
    }
    more = raised(made.policy, "month", "acme", "1", NOW + DAY_US, "ann", "more", NOW)
    assert (more.scope, more.after) == ("tenant_id=acme", 426_500_000_000_000)


def test_a_raise_is_in_the_unit_of_its_budget() -> None:
    """Tokens are added to tokens."""
    made = raised(FIRST, "tokens", "project_id=x,tenant_id=acme", "9", NOW + 1, "a", "b", NOW)
    assert (made.before, made.after, made.unit) == (1000, 1009, "tokens")


SPANNING = """
  - budget_id: pool
    scope: []
    where: {pool: large}
    unit: usd
    limit: "900"
    period: month
    rules: [{rule_id: stop, at: 100%, action: block}]
"""


def test_a_budget_that_spans_tenants_is_raised_for_all() -> None:
    """Its one scope is typed as `all`; differences name it."""
    policy = load_policy(TEXT + SPANNING, "p")
    made = raised(policy, "pool", "all", "100", NOW + DAY_US, "ann", "launch", NOW)
    assert (made.scope, made.tenant_id) == ("", "")
    assert (made.before, made.after) == (900 * 10**12, 1000 * 10**12)
    assert made == raised(policy, "pool", "", "100", NOW + DAY_US, "ann", "launch", NOW)
    told = {change.path: change.after for change in differences(policy, made.policy)}
    assert told["budgets[pool].raises[1].scope"] == "all tenants"
    with pytest.raises(ConfigError, match="is none of budget pool; write all"):
        raised(policy, "pool", "pool=large", "1", NOW + 1, "a", "b", NOW)
    added = {change.path: change.after for change in differences(FIRST, policy)}
    assert added["budgets[pool].limit"] == "900.000000 USD"
    assert added["budgets[pool].where.pool"] == "large"
    of_tenant = load_policy(TEXT + SPANNING.replace("pool: large", "tenant_id: acme"), "p")
    assert raised(of_tenant, "pool", "all", "1", NOW + 1, "a", "b", NOW).tenant_id == "acme"
    # A tenant may be called so.
    named = raised(policy, "month", "all", "1", NOW + 1, "a", "b", NOW)
    assert named.scope == "tenant_id=all"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"budget_id": "year"}, "has no budget year; one of: month, tokens"),
        ({"until": NOW}, "--until lies in the past"),
        ({"add": "much"}, "--add not an amount of money"),
        ({"add": "0"}, "the raise is wrong, nothing applied: Input should be greater than 0"),
        ({"scope": "project_id=x"}, "is none of budget month; write tenant_id=..."),
        ({"reason": ""}, "nothing applied: String should have at least 1 character"),
    ],
)
def test_a_wrong_raise_says_what_is_wrong(over: dict[str, object], said: str) -> None:
    """Nothing is made of it."""
    given = {"budget_id": "month", "scope": "acme", "add": "1", "until": NOW + 1, "by": "a",
             "reason": "b", "now": NOW}  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        raised(FIRST, **(given | over))  # type: ignore[arg-type]
