"""What the commands show of budgets that span tenants, from records of the topics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.admission.messages import (
    NOW,
    budget_rule,
    decision,
    heartbeat,
    key_of,
    lease,
    rule_key,
)
from typer.testing import CliRunner

from sluice.cli import budgets, explain, policies
from sluice.cli.app import app
from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_file import load_policy
from sluice.runtime import publish
from sluice.settings import Settings
from sluice.steering import control, following, reading, versions
from sluice.wire.codec import encode
from sluice.wire.kafka import topics
from sluice.wire.scan import Scanned

POLICY = load_policy(
    """
policy_id: p
budgets:
  - {budget_id: all-day, scope: [], unit: usd, limit: "100", period: day, hard: true}
  - budget_id: model-day
    scope: [model]
    unit: usd
    limit: "10"
    period: day
    rules: [{rule_id: stop, at: 100%, action: block}]
  - budget_id: tenant-day
    scope: [tenant_id]
    unit: usd
    limit: "20"
    period: day
    rules: [{rule_id: stop, at: 100%, action: block}]
""",
    "p",
)
USD = 10**12
FAR = 4_000_000_000_000_000
SETTINGS = Settings(partitions=2, clickhouse_url="http://127.0.0.1:1")


def ledger(budget: str, scope: str, tenant: str, limit: int, settled: int) -> Scanned:
    """A row of the budgets topic, dollars; what spans tenants has no key."""
    row = {
        "tenant_id": tenant, "policy_id": "p", "budget_id": budget, "scope": scope, "period": "d",
        "period_start": NOW, "period_end": FAR, "limit_pusd": 0, "settled_pusd": 0,
        "remaining_pusd": 0, "unit": "pusd", "limit": limit * USD, "settled": settled * USD,
        "reserved": 0, "presumed": 0, "corrected": 0, "remaining": (limit - settled) * USD,
        "events": 1, "unpriced": 0, "burn": [], "state": "ok", "watermark": NOW, "version": 1,
    }  # fmt: skip
    partition = 0 if tenant else 2
    return Scanned("b", partition, 0, 0, tenant.encode(), encode("BudgetRow", row), [])


def rule(budget: str, partition: int, **over: Any) -> Scanned:
    """A word of a partition's owner about a budget."""
    value = budget_rule(budget_id=budget, source_partition=partition,
                        policy_version=POLICY.version, **over)  # fmt: skip
    return Scanned("c", partition, 0, NOW // 1000, rule_key(budget, partition), value, [])


def said(key: bytes, value: bytes) -> Scanned:
    """A message of the owner of budgets that span tenants."""
    return Scanned("c", 2, 0, NOW // 1000, key, value, [])


CONTROL = [
    rule("all-day", 2, scope=[]), rule("model-day", 2, scope=["model"], hard=False),
    rule("tenant-day", 0, hard=False), rule("tenant-day", 1, hard=False),
    said(key_of("model-day", "model=gpt-x"), decision(
        decision_id="id-model", rule_id="model-day", scope={"model": "gpt-x"}, expires_at=FAR,
        policy_version=POLICY.version,
        evidence={"window": "d", "observed": 10 * USD, "limit": 10 * USD, "unit": "pusd",
                  "offsets": []})),
    said(b"lease|p|all-day||d|gw|e1", lease(
        budget_id="all-day", scope={}, granted_total=3 * USD, expires_at=FAR)),
    said(b"heartbeat|2", heartbeat(2, of_tenants=False)),
]  # fmt: skip
LEDGERS = [
    ledger("all-day", "", "", 100, 95), ledger("model-day", "model=gpt-x", "", 10, 10),
    ledger("tenant-day", "tenant_id=acme", "acme", 20, 1),
    ledger("tenant-day", "tenant_id=other", "other", 20, 19),
]  # fmt: skip


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[Policy]:
    """The topics of a running stack; policies that a command publishes."""
    policy = {"policy_id": "p", "version": POLICY.version, "published_at": NOW,
              "body": POLICY.to_json()}  # fmt: skip
    held = {
        topics(SETTINGS).control: CONTROL,
        topics(SETTINGS).budgets: LEDGERS,
        topics(SETTINGS).policy: [Scanned("p", 0, 0, 0, b"p", encode("Policy", policy), [])],
    }

    def records(_: Settings, *names: str) -> Iterator[Scanned]:
        for name in names:
            yield from held[name]

    for module in (control, reading, versions):
        monkeypatch.setattr(module, "committed_records", records)
    for module in (budgets, explain, policies):
        monkeypatch.setattr(module, "reachable", lambda _: SETTINGS)
    made: list[Policy] = []
    monkeypatch.setattr(publish, "publish_policy", lambda _, policy: made.append(policy))
    return made


def shown(*words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_tenant_is_told_what_it_meets_with_others() -> None:
    """Budgets that span tenants stand beside its own, and the smallest bound is said."""
    text = shown("explain", "--scope", "tenant_id=acme")
    assert "all-day of all tenants: never more than 100.000000 USD" in text
    assert "  lease of gw: 3.000000 USD" in text
    assert "tenant-day of tenant_id=acme: soft" in text and "tenant_id=other" not in text
    assert (
        "tenant_id=acme as a whole: at most 5.000000 USD more until 2096-10-02 07:06:40 UTC, "
        "by budget all-day of all tenants, beside what is in flight"
    ) in text
    assert "block for model=gpt-x" in text
    told = json.loads(shown("explain", "--scope", "tenant_id=acme,model=gpt-y", "--json"))
    assert told["decisions"] == []
    assert [bound["budget_id"] for bound in told["bounds"]] == ["all-day", "tenant-day"]
    assert [(one["amount"], one["budget_id"]) for one in told["ceilings"]] == [(5 * USD, "all-day")]


@pytest.mark.parametrize("scope", ["", "all"])
def test_all_tenants_are_a_scope(scope: str) -> None:
    """Everything is told, what spans tenants first."""
    told = json.loads(shown("explain", "--scope", scope, "--json"))
    assert [bound["scope"] for bound in told["bounds"]] == [
        "", "model=gpt-x", "tenant_id=acme", "tenant_id=other",
    ]  # fmt: skip
    assert "all tenants as a whole: at most 5.000000 USD" in shown("explain", "--scope", scope)


def test_a_model_is_explained_across_tenants() -> None:
    """Its decision names no tenant; the raise that would end it can be typed."""
    text = shown("explain", "--scope", "model=gpt-x")
    raised = "sluice budget raise p model-day --scope model=gpt-x --add 0.000001"
    assert "block for model=gpt-x" in text and raised in text
    assert "model=gpt-x as a whole: at most 5.000000 USD" in text
    assert raised in shown("explain", "id-model")
    other = json.loads(shown("explain", "--scope", "model=gpt-y", "--json"))
    assert other["decisions"] == []


def test_budgets_that_span_tenants_are_listed_by_name() -> None:
    """Of a tenant its own and those that it meets; of all tenants every one."""
    text = shown("budget", "list", "--scope", "tenant_id=acme")
    assert "all tenants" in text and "model=gpt-x" in text and "tenant_id=other" not in text
    assert len(json.loads(shown("budget", "list", "--scope", "all", "--json"))) == 4
    text = shown("budget", "show", "all-day", "--scope", "all")
    assert "all tenants, 2027-01-15 08:00:00 UTC to" in text and "95.0 %" in text


def test_a_budget_of_all_tenants_is_raised(published: list[Policy]) -> None:
    """The one scope that it has is typed as `all`."""
    text = shown("budget", "raise", "p", "all-day", "--scope", "all", "--add", "50",
                 "--until", "2090-01-01", "--reason", "launch", "--by", "ann")  # fmt: skip
    assert "limit of all tenants: 100.000000 USD -> 150.000000 USD until 2090-01-01" in text
    (policy,) = published
    assert policy.by_id["all-day"].limit_for("", NOW) == 150 * USD


def test_a_policy_is_in_force_where_all_owners_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the word of one the list says where it is."""
    (listed,) = json.loads(shown("policy", "list", "--json"))
    assert listed["in_force"] == [0, 1, 2]
    assert " yes " in shown("policy", "list")
    monkeypatch.setattr(control, "committed_records", lambda *_: iter(CONTROL[:3]))
    assert "in partitions 0; budgets that span tenants" in shown("policy", "list")
    monkeypatch.setattr(control, "committed_records", lambda *_: iter(CONTROL[2:]))
    assert "in partitions 0, 1 " in shown("policy", "list")


def test_watch_shows_what_all_tenants_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant's watch has the decisions and leases of budgets that it shares with others."""
    lines = [following.line_of(record) for record in CONTROL]
    monkeypatch.setattr(following, "follow_control", lambda *_, **__: iter(lines))
    text = shown("watch", "--scope", "tenant_id=acme", "--kind", "lease", "--kind", "decision",
                 "--kind", "heartbeat")  # fmt: skip
    assert "  all tenants  lease  gw may spend 3.000000 USD of budget all-day" in text
    assert "  model=gpt-x  block  " in text
    assert "usage of budgets that span tenants is applied" in text
