"""The sections `ladder` and `risk` of a policy: what they mean and which faults they can have."""

from __future__ import annotations

import pytest
from tests.builders import POLICY, policy

from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_file import PolicyError, explain, load_policy

LADDER = """
ladder:
  ceilings: {guaranteed: rate_limit, standard: queue, batch: block}
  rules:
    - {rule_id: fast, signal: burn, budget_id: tenant-day, at: 14.4, action: rate_limit,
       rate_per_minute: 60}
    - {rule_id: bad, signal: slo_burn, target: 99%, at: 10, action: block}
risk:
  hold_s: 0
  rules:
    - {rule_id: deep, signal: depth, at: 12, action: preempt}
"""
TEXT = POLICY + LADDER


def test_a_policy_without_ladders_keeps_its_version() -> None:
    """Absent sections are not named in the canonical text: versions of older policies stay."""
    assert policy().to_json() == (
        '{"budgets":[{"budget_id":"tenant-day","hard":false,"limit_pusd":1000000000,"limits":{},'
        '"on_expiry":"open","period":"day","rules":[{"action":"rate_limit","at":"0.8","burst":1,'
        '"rate_per_minute":30,"rule_id":"slow"},{"action":"block","at":"1","burst":1,'
        '"rate_per_minute":null,"rule_id":"stop"}],"scope":["tenant_id"],"time_zone":"UTC",'
        '"unit":"usd"}],"mode":"enforce","policy_id":"test"}'
    )


def test_ladders_survive_their_canonical_text() -> None:
    """JSON and back is the same policy, and every value counts for its version."""
    found = load_policy(TEXT, "p")
    assert Policy.from_json(found.to_json()) == found
    assert load_policy(TEXT.replace("14.4", "14.40"), "p").version == found.version
    for old, new in (("14.4", "14.5"), ("hold_s: 0", "hold_s: 1"), ("queue", "degrade")):
        assert load_policy(TEXT.replace(old, new), "p").version != found.version


def test_thresholds_are_whole_numbers() -> None:
    """Multiples and shares in parts per million, counts as they are."""
    found = load_policy(TEXT, "p")
    assert found.ladder is not None and found.risk is not None
    assert [rule.threshold for rule in found.ladder.rules] == [14_400_000, 10_000_000]
    assert found.risk.rules[0].threshold == 12


def test_a_rule_is_explained_with_whom_it_reaches() -> None:
    """The ceilings take out guaranteed and standard requests, and the sentence says so."""
    assert explain(load_policy(TEXT, "p"))[-3:] == [
        (
            "where burn of budget tenant-day of a tenant stays at 14.4 or above for 15 s, all "
            "requests are limited to 60 a minute per admission point"
        ),
        "where slo_burn of a tenant stays at 10 or above for 15 s, batch requests are refused",
        (
            "where depth of a task stays at 12 or above for 0 s, standard and batch requests "
            "are preempted"
        ),
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("signal: burn", "signal: bern", "there is no signal 'bern'; there are burn, depth"),
        ("budget_id: tenant-day, at", "at", "signal burn needs budget_id"),
        ("budget_id: tenant-day, at", "budget_id: x, at", "ladder rule fast: no budget 'x'"),
        ("target: 99%, ", "", "signal slo_burn needs target"),
        ("target: 99%", "target: 100%", "leaves nothing to burn"),
        ("at: 12", "at: 1.5", "counts pieces: at is a whole number"),
        ("at: 12", "at: twelve", "'twelve' is neither a number nor a percentage"),
        ("at: 14.4", "at: 0", "should be greater than 0"),
        ("       rate_per_minute: 60}", "       burst: 2}", "rate_limit needs rate_per_minute"),
        ("at: 10, action: block", "at: 10, pool: p, action: block", "block takes no pool"),
        ("depth, at", "depth, target: 99%, at", "signal depth takes no target"),
        ("action: preempt", "action: allow_with_caps", "allow_with_caps needs a cap"),
        ("action: preempt", "action: preempt, priorities: [standard]", "begin with batch"),
        ("guaranteed: rate_limit", "guaranteed: block", "cannot have a stricter ceiling"),
        ("hold_s: 0", "keep_s: 30", "dwell_s may not be longer than keep_s"),
        ("hold_s: 0", "hold: 0", "unknown name; did you mean hold_s?"),
        ("rule_id: bad", "rule_id: fast", "rule_id must be unique within a ladder"),
        ("signal: depth", "signal: slo_burn, target: 99%", "of rule deep belongs to ladder"),
        ("at: 14.4", "windows: 1m/2m, at: 14.4", "'5m/1h' or '30m/6h'"),
    ],
)  # fmt: skip
def test_each_fault_is_named(old: str, new: str, fault: str) -> None:
    """A fault says what is wrong; nothing of the file is used."""
    assert TEXT.count(old) >= 1
    with pytest.raises(PolicyError, match="line") as refused:
        load_policy(TEXT.replace(old, new), "p.yaml")
    assert any(fault in str(found) for found in refused.value.faults), refused.value
