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
    """The examples load, and each of their rules has a sentence."""
    policy = load_policy(path.read_text(), path.name)
    ladders = [section for section in (policy.ladder, policy.risk) if section is not None]
    rules = [rule for held in (*policy.budgets, *ladders) for rule in held.rules]
    assert len(explain(policy)) == len(rules)


def test_money_is_exact_and_exceptions_apply() -> None:
    """Limits are read as decimal text, quoted or not; an exception replaces the limit."""
    text = POLICY.replace('limit: "0.001"', "limit: 0.1\n    limits: {acme: 2.5}")
    (budget,) = load_policy(text, "p").budgets
    assert (budget.limit_for("other"), budget.limit_for("acme")) == (pusd("0.1"), pusd("2.5"))


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
            "line 6, column 11: budgets[0].unit: the unit of a budget is usd",
        ),
        ('"0.001"', '"-1"', "budgets[0].limit: Input should be greater than or equal to 0"),
        ('"0.001"', '"9000001"', "budgets[0].limit: Input should be less than or equal"),
        ('"0.001"', '"0.0000000000001"', "is not a whole number of pico-dollars"),
        ("policy_id: test", "policy_id: a b", "line 2, column 12: policy_id: String should match"),
        ("rate_per_minute: 30", "rate_per_minut: 30", "did you mean rate_per_minute?"),
        ("[tenant_id]", "[tenant_id, model]", "the scope of a budget is [tenant_id]"),
        ("action: block", "action: explode", "'rate_limit' or 'block'"),
        ("100%", "120%", "should be less than or equal to 1"),
        ("100%", "80%", "two rules take effect at the same share"),
        ("rule_id: stop", "rule_id: slow", "rule_id must be unique within a budget"),
        ("period: day", "period: day\n    hard: true", "hard budgets are not enforced"),
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
    broken = POLICY.replace("usd", "eur").replace("day\n", "dy\n").replace("block", "explode")
    listed = faults(broken)
    assert len(listed) == 3
    assert listed == sorted(listed, key=lambda text: int(text.split()[1].strip(",")))


def test_a_file_that_is_no_mapping_is_refused() -> None:
    """An empty file or a list is told what a policy is."""
    assert faults("") == ["line 1, column 1: a policy is a mapping with policy_id and budgets"]
