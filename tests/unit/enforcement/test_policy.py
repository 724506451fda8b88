"""Policies: what a file means, which faults it can have, what names a version."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.builders import POLICY

from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_file import PolicyError, explain, load_policy
from sluice.money import pusd
from sluice.resources import resource_dir

EXAMPLES = sorted((resource_dir("infra") / "policies").glob("*.yaml"))


def faults(text: str) -> list[str]:
    """Faults of a wrong policy as people read them."""
    with pytest.raises(PolicyError) as refused:
        load_policy(text, "p.yaml")
    return [str(fault) for fault in refused.value.faults]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_valid_and_explained(path: Path) -> None:
    """The examples load, and each of their hard limits and rules has a sentence."""
    policy = load_policy(path.read_text(), path.name)
    said = sum(len(budget.rules) + budget.hard for budget in policy.budgets)
    ladders = [section for section in (policy.ladder, policy.risk) if section is not None]
    assert len(explain(policy)) == said + sum(len(section.rules) for section in ladders)


def test_money_is_exact_and_exceptions_apply() -> None:
    """Limits are read as decimal text, quoted or not; an exception replaces the limit."""
    text = POLICY.replace('limit: "0.001"', "limit: 0.1\n    limits: {acme: 2.5}")
    (budget,) = load_policy(text, "p").budgets
    limits = [budget.limit_for(f"tenant_id={name}", 0) for name in ("other", "acme")]
    assert limits == [pusd("0.1"), pusd("2.5")]


def test_the_version_names_the_content_not_its_layout() -> None:
    """Comments and order change nothing; any value does; JSON and back is the same policy."""
    policy = load_policy(POLICY, "p")
    assert load_policy("# a comment\n" + POLICY, "p").version == policy.version
    assert load_policy(POLICY.replace("80%", "0.8"), "p").version == policy.version
    assert load_policy(POLICY.replace("0.001", "0.002"), "p").version != policy.version
    assert Policy.from_json(policy.to_json()) == policy


def test_rules_stand_in_the_order_of_their_thresholds() -> None:
    """A ladder is climbed from its lowest rung, however it was written."""
    (budget,) = load_policy(POLICY.replace("80%", "xx").replace("100%", "80%")
                            .replace("xx", "100%"), "p").budgets  # fmt: skip
    assert [rule.rule_id for rule in budget.rules] == ["stop", "slow"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("period: day", "period: dy", "line 8, column 13: budgets[0].period: Input should be"),
        (
            "unit: usd",
            "unit: eur",
            "line 6, column 11: budgets[0].unit: eur is no unit of a budget; one of: usd, tokens",
        ),
        ('"0.001"', '"-1"', "budgets[0].limit: Input should be greater than or equal to 0"),
        ('"0.001"', '"9000001"', "budgets[0].limit: Input should be less than or equal"),
        ('"0.001"', '"0.0000000000001"', "is not a whole number of pico-dollars"),
        ("policy_id: test", "policy_id: a b", "line 2, column 12: policy_id: String should match"),
        ("rate_per_minute: 30", "rate_per_minut: 30", "did you mean rate_per_minute?"),
        ("[tenant_id]", "[tenant_id, modle]", "modle is no field of a scope; one of: tenant_id"),
        ("[tenant_id]", "[tenant_id, tenant_id]", "a field stands twice in the scope"),
        ("unit: usd", "where: {poool: a}", "poool is no field to match; one of: tenant_id"),
        ("unit: usd", "fail: {cold: open}", "cold is no situation; one of: control_stale"),
        ("unit: usd", "fail: {cold_start: ajar}", "fail.cold_start: Input should be 'open'"),
        ("unit: usd", "unit: tokens", "0.001 tokens is not a whole number of tokens"),
        ("unit: usd", "unit: concurrency", "budgets[0].limit: 0.001 concurrency is not a whole"),
        ("unit: usd", "weights: {pod-0: 2}", "weights go with hard budgets"),
        ("unit: usd", "limits: {a: x}", "not an amount of money: 'x'"),
        (
            "unit: usd",
            "raises: [{scope: acme, add: 1, until: 2027-01-20T00:00:00Z, by: kim}]",
            "budgets[0].raises[0].reason: Field required",
        ),
        (
            "unit: usd",
            "raises: [{scope: acme, add: 1, until: 2027-01-20, by: kim, reason: r}]",
            "budgets[0].raises[0].until: Input should have timezone info",
        ),
        ("period: day", "period: rolling", "rolling: <length> goes with period rolling"),
        (
            "period: day",
            "period: day\n    rolling: 24h",
            "rolling: <length> goes with period rolling",
        ),
        ("period: day", "period: rolling\n    rolling: 40d", "31d at most"),
        ("period: day", "period: task", "a budget with period task needs task_id in its scope"),
        (
            "unit: usd",
            "parent: other",
            "tenant-day draws on other, which is no budget of this policy",
        ),
        ("unit: usd", "parent: tenant-day", "which draws on itself: tenant-day > tenant-day"),
        ("action: block", "action: explode", "'rate_limit' or 'block'"),
        ("100%", "120%", "should be less than or equal to 1"),
        ("100%", "80%", "two rules take effect at the same share"),
        ("rule_id: stop", "rule_id: slow", "rule_id must be unique within a budget"),
        ("period: day", "period: day\n    time_zone: Mars/City", "is no IANA time zone"),
        ("period: day", "period: day\n    period: hour", "stands here twice"),
        ("budgets:", "budgets: [", "line"),
    ],
)
def test_each_fault_is_named_with_its_place(old: str, new: str, fault: str) -> None:
    """A fault says where it is and what is wrong; nothing of the file is used."""
    assert any(fault in text for text in faults(POLICY.replace(old, new))), new


def test_all_faults_are_listed_at_once() -> None:
    """Three faults give three lines, in the order of the file."""
    broken = (
        POLICY.replace("usd", "usd\n    where: {poool: a}")
        .replace("day\n", "dy\n")
        .replace("block", "explode")
    )
    listed = faults(broken)
    assert len(listed) == 3
    assert listed == sorted(listed, key=lambda text: int(text.split()[1].strip(",")))


def test_a_file_that_is_no_mapping_is_refused() -> None:
    """An empty file or a list is told what a policy is."""
    assert faults("") == ["line 1, column 1: a policy is a mapping with policy_id and budgets"]


OLD = (
    '{"budgets":[{"budget_id":"tenant-month","hard":false,"limit_pusd":50000000000000,"limits":'
    '{"acme":400000000000000},"on_expiry":"open","period":"month","rules":[{"action":"rate_limit",'
    '"at":"0.9","burst":5,"rate_per_minute":30,"rule_id":"slow-down"},{"action":"block","at":"1",'
    '"burst":1,"rate_per_minute":null,"rule_id":"stop"}],"scope":["tenant_id"],"time_zone":'
    '"Europe/Berlin","unit":"usd"}],"mode":"enforce","policy_id":"tenant-budget"}'
)


def test_a_policy_published_before_budgets_had_units_keeps_its_version() -> None:
    """State and topics name it by that version; its canonical JSON stays what it was."""
    policy = Policy.from_json(OLD)
    assert (policy.to_json(), policy.version) == (OLD, "f04fb56808a20fc9")


HARD = """
policy_id: hard
budgets:
  - budget_id: tenant
    scope: [tenant_id]
    unit: tokens
    limit: 1000
    period: day
    hard: true
    weights: {pod-0: 2}
    raises: [{scope: acme, add: 5, until: 2027-01-20T00:00:00Z, by: kim, reason: launch}]
  - budget_id: project
    scope: [tenant_id, project_id]
    where: {pool: a}
    unit: tokens
    limit: 100
    limits: {"project_id=p,tenant_id=acme": 7}
    period: day
    hard: true
    parent: tenant
    fail: {no_price: open}
"""


def test_a_hard_budget_and_its_parent_survive_json() -> None:
    """Every later name comes back, and what a budget draws on is known."""
    policy = load_policy(HARD, "p")
    assert Policy.from_json(policy.to_json()) == policy
    assert [b.budget_id for b in policy.ancestors["project"]] == ["tenant"]
    assert policy.by_id["project"].limit_for("project_id=p,tenant_id=acme", 0) == 7
    assert policy.by_id["tenant"].limit_for("tenant_id=acme", 0) == 1005


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("unit: tokens\n    limit: 1000", "unit: requests\n    limit: 1000",
         "budgets: budget project draws on tenant, which is in requests, not in tokens"),
        ("period: day\n    hard: true\n    weights", "period: hour\n    hard: true\n    weights",
         "whose period is hour UTC, not day UTC"),
        ("scope: [tenant_id, project_id]\n    where: {pool: a}",
         "scope: [project_id]\n    where: {tenant_id: x}",
         "whose scope ['tenant_id'] is not part of ['project_id']"),
        ("scope: [tenant_id]\n", "scope: [tenant_id]\n    where: {pool: b}\n",
         "which does not count all of its usage: it wants {'pool': 'b'}"),
        ("hard: true\n    weights: {pod-0: 2}",
         "rules: [{rule_id: r, at: 1, action: block}]", "which is soft; a hard budget draws on"),
        ("weights: {pod-0: 2}", "parent: project",
         "budget tenant draws on project, which draws on itself: tenant > project"),
        ("project_id=p,tenant_id=acme", "acme",
         "'acme' names no scope; write project_id=...,tenant_id=..."),
        ("unit: tokens\n    limit: 100\n",
         "unit: concurrency\n    limit: 100\n    rules: [{rule_id: r, at: 1, action: block}]\n",
         "a concurrency budget has no rules"),
        ("    hard: true\n    parent", "    parent", "a soft budget needs at least one rule"),
    ],
)  # fmt: skip
def test_budgets_that_do_not_fit_together_are_refused(old: str, new: str, fault: str) -> None:
    """The sentence names both budgets and what differs."""
    assert old in HARD
    assert any(fault in text for text in faults(HARD.replace(old, new, 1))), faults(
        HARD.replace(old, new, 1)
    )
