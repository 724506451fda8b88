"""An agent that goes round in circles on a running stack: blocked, explained, let go, accounted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Stack, until

from sluice.admission.metered import Metered, Task
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest, Refused, Verdict
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics

pytestmark = pytest.mark.integration

POLICY = """
policy_id: runaway
budgets:
  - budget_id: day
    scope: [tenant_id]
    where: {tenant_id: circling}
    unit: usd
    limit: '50'
    period: day
    rules:
      - {rule_id: stop, at: 100%, action: block}
risk:
  hold_s: 0
  keep_s: 8
  dwell_s: 2
  rules:
    - {rule_id: circles, signal: loop, at: 1, action: block, boundary: task}
"""
AGENT = AdmissionRequest("circling", "p", "m")


def circle(task: Task, question: str = "the answer") -> Verdict | None:
    """One more call of the same tool with the same result; what refused it."""
    try:
        with task.tool("search", args={"q": question}) as tool:
            tool.result("not found")
    except Refused as refused:
        return refused.verdict
    return None


def test_a_looping_agent_is_blocked_and_let_go(stack: Stack, tmp_path: Path) -> None:
    """The decision names the loop and what lifts it; another task goes on; its effect is in SQL."""
    file, settings = tmp_path / "p.yaml", stack.settings
    file.write_text(POLICY)
    assert stack.sluice("policy", "apply", str(file)).returncode == 0
    usage = topics(settings).usage
    with (
        UsageEmitter(producer_config(settings), usage, "agents", tmp_path / "wal") as emitter,
        follow(settings, "agents", emitter) as point,
    ):
        until(lambda: ("runaway", "day") in point.state.budgets.in_force, what="the policy")
        metered = Metered(point, emitter)
        task, other = metered.task(AGENT), metered.task(AGENT)
        assert [circle(task) for _ in range(5)] == [None] * 5
        until(lambda: not point.admit(task.request).allowed, what="the block")
        verdict = circle(task)
        assert verdict is not None
        assert (verdict.reason_code, verdict.action) == ("LOOP_DETECTED", "block")
        assert f"task_id {task.task_id}" in verdict.reason
        assert re.search(r"repeats itself after [45] tool calls", verdict.reason)
        decisions = {d.decision_id: d for d in point.state.decisions.values()}
        assert decisions[verdict.decision_id or ""].effect.caps.boundary == "task"
        assert circle(other) is None
        assert "its signal staying below" in ways_out(stack, verdict.decision_id)
        # Somebody who may still go on with the task leads it out of its circle.
        person = metered.task(replace(task.request, priority="guaranteed"))
        assert circle(person, "another question") is None
        until(lambda: point.admit(task.request).allowed, what="the task is let go")
    query = (
        "SELECT action, reason_code, policy_id, ended_why, refused >= 2 AS counted "
        f"FROM decision_effects WHERE decision_id = '{verdict.decision_id}'"
    )
    effect = {"action": "block", "reason_code": "LOOP_DETECTED", "policy_id": "runaway",
              "ended_why": "superseded", "counted": 1}  # fmt: skip
    until(lambda: stack.rows(query) == [effect], what="what the decision did")
    assert stack.sluice("policy", "withdraw", "runaway").returncode == 0


def ways_out(stack: Stack, decision_id: str | None) -> str:
    """What `sluice explain` says would lift a decision."""
    done = stack.sluice("explain", str(decision_id), "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)["decision"]
    assert told["status"] == "in_force"
    return str(told["ways_out"][0])
