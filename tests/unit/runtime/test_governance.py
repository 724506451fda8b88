"""Budgets of a partition in any unit, scope and period: rungs, raises, slices, policy changes."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    NOW,
    TOPICS,
    FakeReferences,
    Fed,
    activate,
    partition,
    record,
    usage,
)

from sluice.metering.prices import default_book
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode

MINUTE = 60_000_000
HOUR = 60 * MINUTE

BUDGET = """
policy_id: test
budgets:
  - budget_id: b
    scope: [tenant_id, model]
    unit: tokens
    limit: 1000
    period: day
    rules:
      - {rule_id: stop, at: 100%, action: block}
"""
ROLLING = BUDGET.replace("period: day", "period: rolling\n    rolling: 1h")
TASK = BUDGET.replace("[tenant_id, model]", "[tenant_id, task_id]").replace("day", "task")
RAISED = BUDGET.replace(
    "period: day",
    "period: day\n    raises: [{scope: 'model=m,tenant_id=acme', add: 500, by: kim, reason: r, "
    "until: 2027-01-15T08:30:00Z}]",
)


class Meter(Fed):
    """A partition under one policy, fed event by event."""

    def __init__(self, text: str) -> None:
        references = FakeReferences()
        super().__init__(references, partition(references))
        self.number = 0
        self.put(activate(0, self.references.put(default_book())))
        self.switch(text)

    def use(self, tokens: int, **over: Any) -> None:
        """Usage of so many tokens now."""
        self.number += 1
        event = usage(self.number, occurred_at=self.at, started_at=self.at, request_model="m",
                      input_tokens=tokens, output_tokens=0) | over  # fmt: skip
        self.put(record(self.offset, event, at=self.at))

    def said(self, kind: str = "decision|") -> list[dict[str, Any] | None]:
        """Control messages of a kind since the last call."""
        outs = [o for o in self.part.take() if o.topic == TOPICS.control]
        outs = [o for o in outs if o.key.decode().startswith(kind)]
        return [decode(o.value)[1] if o.value else None for o in outs]

    def actions(self) -> list[str | None]:
        """What decisions since the last call do; None lifts one."""
        return [said and said["action"] for said in self.said()]


def rows(part: Partition) -> list[dict[str, Any]]:
    """Budget rows since the last call."""
    taken = [out for out in part.take() if out.topic == TOPICS.budgets]
    return [decode(out.value or b"")[1] for out in taken]


def test_each_scope_has_a_ledger_of_its_own() -> None:
    """Tokens of one model block that model, with its scope and unit in the decision."""
    meter = Meter(BUDGET)
    meter.use(999)
    meter.use(999, request_model="other")
    assert meter.actions() == []
    meter.use(1)
    (block,) = meter.said()
    assert block is not None
    assert {k: v for k, v in block["scope"].items() if v} == {"tenant_id": "acme", "model": "m"}
    assert block["evidence"] | {"offsets": []} == {
        "window": "2027-01-15", "observed": 1000, "limit": 1000, "unit": "tokens", "offsets": [],
    }  # fmt: skip
    used = "model m, tenant_id acme has used 1,000 of 1,000 tokens (100 %) of budget b"
    assert block["reason"].startswith(f"{used} in the day 2027-01-15; requests are refused until")


def test_a_row_says_unit_burn_and_forecast() -> None:
    """Amounts stand in the unit; money fields stay 0; the last hour tells how the day ends."""
    meter = Meter(BUDGET)
    meter.use(100)
    meter.wait(10 * MINUTE)
    meter.use(20)
    meter.wait(6_000_000)
    row = rows(meter.part)[-1]
    assert (row["scope"], row["unit"]) == ("model=m,tenant_id=acme", "tokens")
    assert (row["limit"], row["settled"], row["remaining"]) == (1000, 120, 880)
    assert (row["limit_pusd"], row["settled_pusd"]) == (0, 0)
    assert row["burn"] == [
        {"key": "5m", "value": 20}, {"key": "1h", "value": 120}, {"key": "6h", "value": 120},
    ]  # fmt: skip
    left, seen = row["period_end"] - row["watermark"], 10 * MINUTE + 5_000_000
    seen = row["watermark"] - NOW
    assert row["forecast"] == 120 + 120 * left // seen
    assert row["exhausted_at"] == row["watermark"] + -(-880 * seen // 120)
    assert row["forecast_pusd"] is None


def test_a_rolling_block_is_lifted_when_enough_is_longer_ago() -> None:
    """The sum falls slice by slice; when it is below the limit, requests are admitted again."""
    meter = Meter(ROLLING)
    meter.use(600)
    meter.wait(20 * MINUTE)
    meter.use(400)
    assert meter.actions() == ["block"]
    meter.wait(40 * MINUTE)
    assert meter.actions() == []
    meter.wait(MINUTE)
    assert meter.actions() == ["allow"]


def test_a_rolling_block_that_outlasts_itself_is_said_again() -> None:
    """A standing block gets a new decision a slice before its time is over: no gap opens."""
    meter = Meter(ROLLING)
    meter.use(1500)
    (first,) = meter.said()
    assert first is not None
    for _ in range(5):
        meter.wait(15 * MINUTE)
        meter.use(900)
    said = meter.said()
    assert [d and d["action"] for d in said] == ["block"]
    assert said[0] is not None
    assert said[0]["supersedes"] == first["decision_id"]
    assert said[0]["issued_at"] == first["expires_at"] - MINUTE


def test_a_task_has_one_ledger_over_midnight() -> None:
    """Usage before and after midnight adds up; another task is not blocked."""
    meter = Meter(TASK)
    meter.use(600, task_id="t1")
    meter.wait(20 * HOUR)
    meter.use(600, task_id="t2")
    meter.use(400, task_id="t1")
    (block,) = meter.said()
    assert block is not None
    assert block["scope"]["task_id"] == "t1"
    assert "in the task" in block["reason"]


def test_a_raise_ends_by_itself() -> None:
    """Above the plain limit, the block comes at the second at which the raise ends, on silence."""
    meter = Meter(RAISED)
    (rule,) = meter.said("budget|")
    assert rule is not None
    assert rule["limits"] == [{"key": "model=m,tenant_id=acme", "value": 1500}]
    meter.use(1200)
    assert meter.actions() == []
    assert meter.part.next_due() is not None
    meter.wait(29 * MINUTE)
    assert meter.actions() == []
    meter.wait(MINUTE + 1_000_000)
    outs = [o for o in meter.part.take() if o.topic == TOPICS.control]
    kinds = [decode(o.value or b"") for o in outs]
    assert sorted(name for name, _ in kinds) == ["BudgetRule", "Decision"]
    assert dict(kinds)["Decision"]["evidence"]["limit"] == 1000
    assert dict(kinds)["BudgetRule"]["limits"] == [{"key": "model=m,tenant_id=acme", "value": 1000}]


def test_two_decisions_at_one_offset_are_in_order() -> None:
    """A raise that ends and usage that crosses at the same record: the later number is larger."""
    slow = "- {rule_id: s, at: 50%, action: rate_limit, rate_per_minute: 5}"
    text = RAISED.replace("rules:", f"rules:\n      {slow}")
    meter = Meter(text)
    meter.use(600)
    meter.at += 31 * MINUTE
    meter.use(500)
    limited, block = meter.said()
    assert limited is not None and block is not None
    assert [limited["action"], block["action"]] == ["rate_limit", "block"]
    assert limited["evidence"]["offsets"] == block["evidence"]["offsets"]
    assert limited["sequence"] < block["sequence"]


def test_admission_points_learn_what_is_in_force() -> None:
    """Rules come with the policy, again with a new version, and go with the policy."""
    meter = Meter(BUDGET)
    (rule,) = meter.said("budget|")
    assert rule is not None
    assert (rule["scope"], rule["unit"], rule["hard"]) == (["tenant_id", "model"], "tokens", False)
    meter.switch(BUDGET.replace("budget_id: b", "budget_id: c"))
    gone, new = meter.said("budget|")
    assert gone is None and new is not None and new["budget_id"] == "c"
    meter.put(activate(meter.offset, ("policy", "test", "")))
    assert meter.said("budget|") == [None]


def test_a_budget_in_another_unit_begins_at_nothing() -> None:
    """What was counted in tokens is not held against a limit of requests; its block is lifted."""
    meter = Meter(BUDGET)
    meter.use(1000)
    assert meter.actions() == ["block"]
    meter.switch(BUDGET.replace("tokens", "requests").replace("1000", "2"))
    assert meter.actions() == [None]
    meter.use(1000)
    assert meter.actions() == []
    meter.use(1)
    assert meter.actions() == ["block"]


def test_a_budget_of_other_scopes_lets_go_of_the_old_ones() -> None:
    """Ledgers of scopes that the budget no longer has are withdrawn."""
    meter = Meter(BUDGET)
    meter.use(1000)
    assert meter.actions() == ["block"]
    meter.switch(BUDGET.replace("[tenant_id, model]", "[tenant_id]"))
    assert meter.actions() == [None]
    meter.use(10)
    assert meter.actions() == []


def test_news_of_a_version_that_is_gone_is_taken_back() -> None:
    """A limit was raised and requests were let in again; the next version does not say so too."""
    meter = Meter(BUDGET)
    meter.use(1000)
    meter.switch(BUDGET.replace("limit: 1000", "limit: 2000"))
    assert meter.actions() == ["block", "allow"]
    meter.switch(BUDGET.replace("limit: 1000", "limit: 3000"))
    assert meter.actions() == [None]
    meter.switch(BUDGET)
    assert meter.actions() == ["block"]


def test_a_budget_that_comes_to_span_tenants_is_let_go_of() -> None:
    """Its rule and its standing decision are taken back, and usage opens no ledger of it."""
    meter = Meter(BUDGET.replace("[tenant_id, model]", "[model]\n    where: {tenant_id: acme}"))
    meter.use(1000)
    assert [said and said["action"] for said in meter.said()] == ["block"]
    (ledger,) = meter.part.state.ledgers.values()
    meter.switch(BUDGET.replace("[tenant_id, model]", "[model]"))
    assert meter.said("") == [None, None]
    meter.use(1000, tenant_id="other")
    assert list(meter.part.state.ledgers.values()) == [ledger]
    assert ledger.settled == 1000
