"""People ask and steer a running stack from the command line."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from typing import Any

import pytest
from tests.builders import usage
from tests.integration.conftest import Stack, until

from sluice.steering.ledgers import Ledgers
from sluice.steering.stored import Stored

POLICY = """
policy_id: steer
budgets:
  - budget_id: day
    scope: [tenant_id]
    unit: usd
    limit: '0.00005'
    period: day
    rules:
      - {rule_id: stop, at: 100%, action: block}
"""
TENANT = "steered"
SCOPE = f"tenant_id={TENANT}"


def asked(stack: Stack, *words: str, code: int = 0, **environment: str) -> Any:
    """What a command says with --json."""
    done = stack.sluice(*words, "--json", env=os.environ | environment)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def blocked(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The decision that blocks a tenant, as `explain` tells it, and the policy's file."""
    file = tmp_path_factory.mktemp("policies") / "p.yaml"
    file.write_text(POLICY)
    assert stack.sluice("policy", "apply", str(file)).returncode == 0
    now = time.time_ns() // 1000
    events = []
    for number in range(2):
        event = usage(number, tenant_id=TENANT, occurred_at=now, started_at=now)
        for name in ("source", "source_epoch", "source_seq", "event_id"):
            event.pop(name)
        events.append(json.dumps(event))
    assert stack.sluice("emit", input="\n".join(events)).returncode == 0
    told: list[Any] = []

    def stands() -> bool:
        told[:] = asked(stack, "explain", "--scope", SCOPE)["decisions"]
        return bool(told)

    until(stands, what="the decision")
    yield told[0], file
    assert stack.sluice("policy", "withdraw", "steer").returncode == 0


def test_explain_tells_a_scope_and_a_decision(stack: Stack, blocked: Any) -> None:
    """What is in force, why and the bounds, also while ClickHouse is away."""
    decision, _ = blocked
    assert (decision["status"], decision["action"]) == ("in_force", "block")
    away = {"SLUICE_CLICKHOUSE_URL": "http://127.0.0.1:1"}
    told = asked(stack, "explain", "--scope", SCOPE, **away)
    assert told["history"] is None and "does not answer" in told["clickhouse"]
    assert [d["decision_id"] for d in told["decisions"]] == [decision["decision_id"]]
    (bound,) = (bound for bound in told["bounds"] if bound["policy_id"] == "steer")
    assert (bound["settled"], bound["limit"], bound["hard"]) == (60_000_000, 50_000_000, False)
    one = asked(stack, "explain", decision["decision_id"], **away)
    assert one["decision"]["sentence"] == decision["sentence"]
    assert asked(stack, "explain", "nothing", code=1)["decision"] is None
    shown = stack.sluice("explain", "--scope", SCOPE).stdout
    assert "sluice budget raise steer day --scope tenant_id=steered --add 0.000011" in shown
    assert "Upper bounds" in shown and "120.0 %" in shown


def test_history_comes_from_clickhouse(stack: Stack, blocked: Any) -> None:
    """A decision that the sink has stored is listed with its reason."""
    decision, _ = blocked

    def stored() -> bool:
        told = asked(stack, "explain", "--scope", SCOPE)
        return [d["decision_id"] for d in told["history"]] == [decision["decision_id"]]

    until(stored, what="the history")
    with closing(Stored(stack.settings)) as warehouse:
        met = Ledgers(warehouse.budget_rows(TENANT) or ()).current()
        (ledger,) = (ledger for ledger in met if not ledger.spans_tenants)
        assert not any(row["tenant_id"] for row in warehouse.budget_rows("nobody") or ())
        assert warehouse.successor(decision["decision_id"]) is None
    assert (ledger.settled, ledger.unit, ledger.state) == (60_000_000, "pusd", "block")


def test_watch_follows_the_control_topic(stack: Stack, blocked: Any) -> None:
    """A JSON line per message that concerns the scope, with the record; heartbeats on request."""
    decision, _ = blocked
    done = stack.sluice("watch", "--standing", "--scope", SCOPE, "--seconds", "3", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert decision["decision_id"] in [line["record"]["decision_id"] for line in lines
                                       if line["kind"] == "decision"]  # fmt: skip
    assert {line["scope"] for line in lines} <= {SCOPE, "", None}
    done = stack.sluice("watch", "--kind", "heartbeat", "--seconds", "5")
    assert "usage of partition" in done.stdout
    assert stack.sluice("watch", "--kind", "beat").returncode == 2


def test_a_raise_lifts_and_a_rollback_blocks_again(stack: Stack, blocked: Any) -> None:
    """A raise is a version of its own that ends the block; the version before restores it."""
    decision, file = blocked
    (ledger,) = asked(stack, "budget", "list", "--policy", "steer", "--scope", SCOPE)
    assert (ledger["budget_id"], ledger["settled"], ledger["state"]) == ("day", 60_000_000, "block")
    made = asked(stack, "budget", "raise", "steer", "day", "--scope", SCOPE, "--add", "0.000011",
                 "--until", "2099-01-01", "--reason", "launch week", "--by", "ann")  # fmt: skip
    assert (made["limit_before"], made["limit_after"]) == (50_000_000, 61_000_000)

    def state(wanted: str) -> bool:
        (row,) = asked(stack, "budget", "show", "day", "--policy", "steer", "--scope", SCOPE)
        return bool(row["state"] == wanted)

    until(lambda: state("ok"), what="the end of the block")

    def replaced() -> bool:
        told = asked(stack, "explain", decision["decision_id"])["decision"]
        return bool(told["status"] == "replaced" and told["ended_by"])

    until(replaced, what="the end of the decision in ClickHouse")
    changes = asked(stack, "policy", "diff", made["version_before"], made["version"])["changes"]
    assert {change["path"]: change["after"] for change in changes}[
        "budgets[day].raises[1].reason"
    ] == "launch week"
    rolled = asked(stack, "policy", "rollback", "steer")
    assert rolled["version"] == made["version_before"]
    until(lambda: state("block"), what="the block")
    listed = asked(stack, "policy", "list")
    places = {v["version"]: v["in_force"] for v in listed if v["policy_id"] == "steer"}
    assert places == {made["version"]: [], made["version_before"]: [0, 1, 2, 3]}
    shown = stack.sluice("budget", "show", "day", "--scope", SCOPE).stdout
    assert "0.000050 USD" in shown and "why it is limited: sluice explain" in shown
    assert stack.sluice("budget", "show", "year").returncode == 1
    assert stack.sluice("policy", "diff", str(file), made["version"][:8]).returncode == 0


def test_a_shadow_is_published_and_not_obeyed(stack: Stack, blocked: Any) -> None:
    """Under another id it stands beside what is enforced; under the same one it is refused."""
    _, file = blocked
    done = stack.sluice("policy", "shadow", str(file))
    assert done.returncode == 2 and "--id steer-next" in done.stderr
    shadow = asked(stack, "policy", "shadow", str(file), "--id", "steer-next")
    assert shadow["mode"] == "shadow"

    def listed() -> bool:
        versions = asked(stack, "policy", "list")
        return any(v["version"] == shadow["version"] and v["in_force"] for v in versions)

    until(listed, what="the shadow in force")
    assert stack.sluice("policy", "activate", "steer-next", shadow["version"][:6]).returncode == 0
    assert stack.sluice("policy", "withdraw", "steer-next").returncode == 0
