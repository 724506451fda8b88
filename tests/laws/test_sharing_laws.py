"""Laws of shares: what is told is what a slow count of single events says, however it is cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    partition,
    policy,
    record,
    tick,
    usage,
)
from tests.laws.streams import pieces

from sluice.enforcement import budgets
from sluice.enforcement.amounts import amount, scope_of
from sluice.enforcement.policy import Budget, Policy
from sluice.enforcement.shares import Share, ShareKey, read_share
from sluice.metering.prices import default_book
from sluice.periods import period_of
from sluice.runtime.partition import Partition
from sluice.wire.codec import decode

PARTITION = 3
SECOND, DAY_US = 1_000_000, 86_400_000_000
Shares = dict[ShareKey, Share]

FIRST = """
policy_id: laws
budgets:
  - {budget_id: money, scope: [], limit: "1", period: minute, RULES}
  - {budget_id: pool, scope: [model], where: {pool: p}, unit: tokens, limit: 9, period: hour, RULES}
  - {budget_id: lent, scope: [project_id], unit: tokens, limit: 9, period: minute, hard: true}
  - {budget_id: flow, scope: [], unit: requests, limit: 9, period: rolling, rolling: 1m, hard: true}
  - {budget_id: late, scope: [model], unit: steps, limit: 9, period: rolling, rolling: 1h, RULES}
  - {budget_id: own, scope: [tenant_id], limit: "1", period: minute, RULES}
"""
# Another unit, lent no more, longer, of one tenant by now; one is gone.
THEN = """
policy_id: laws
budgets:
  - {budget_id: money, scope: [], unit: requests, limit: 9, period: minute, RULES}
  - {budget_id: lent, scope: [project_id], unit: tokens, limit: 9, period: minute, RULES}
  - {budget_id: flow, scope: [], unit: requests, limit: 9, period: rolling, rolling: 3m, hard: true}
  - {budget_id: late, scope: [model], where: {tenant_id: a}, unit: steps, limit: 9,
     period: rolling, rolling: 1h, RULES}
  - {budget_id: own, scope: [tenant_id], limit: "1", period: minute, RULES}
"""
RULES = "rules: [{rule_id: stop, at: 100%, action: block}]"
POLICIES = {one.version: one for one in (policy(t.replace("RULES", RULES)) for t in (FIRST, THEN))}
VERSIONS = [*POLICIES, ""]

events = st.lists(
    st.fixed_dictionaries(
        {
            "tenant": st.sampled_from("aab"),
            "gap_ms": st.sampled_from([0, 0, 0, 1, 30, 400, 1100, 20_000, 61_000, 3_456_000_000]),
            "back_s": st.sampled_from([0, 0, 0, 1, 30, 59, 61, 3000]),
            "tokens": st.integers(0, 900),
            "model": st.sampled_from(["m", "n"]),
            "kind": st.sampled_from(
                ["inference"] * 9 + ["tool", "correction", "correction", "tick", "ask", "switch"]
            ),
            "priced": st.sampled_from([True, True, False]),
            "pool": st.sampled_from(["p", "p", None, "q"]),
            "source": st.sampled_from(["gw", "gw", "other"]),
            "epoch": st.sampled_from(["e1", "e1", "e2"]),
            "numbered": st.sampled_from([True, True, True, False]),
            "outcome": st.sampled_from(["ok", "ok", "throttled"]),
            "attempt": st.sampled_from([1, 1, 2]),
            "version": st.sampled_from(VERSIONS),
            "budget": st.sampled_from(["lent", "flow", "money"]),
        }
    ),
    max_size=40,
)


def records(drawn: list[dict[str, Any]]) -> list[FakeRecord]:
    """The drawn choices as consumed records."""
    made, at = [], NOW
    for offset, d in enumerate(drawn, 2):
        at += d["gap_ms"] * 1000
        if d["kind"] == "tick":
            made.append(tick(offset, at))
        elif d["kind"] == "switch":
            made.append(activate(offset, ("policy", "laws", d["version"]), at=at))
        elif d["kind"] == "ask":
            made.append(record(offset, question(d, at), at=at, key="", name="HolderReport"))
        else:
            made.append(record(offset, event_of(offset, d, at), at=at))
    return made


def question(d: dict[str, Any], at: int) -> dict[str, Any]:
    """What the rollup asks of a process that is over."""
    period = "rolling" if d["budget"] == "flow" else period_of("minute", "UTC", at).period_id
    return {
        "holder": d["source"], "holder_slot": "s", "source_epoch": d["epoch"], "tenant_id": "",
        "policy_id": "laws", "budget_ids": [d["budget"]], "period": period, "unit": "tokens",
        "scope": "project_id=chat" if d["budget"] == "lent" else "", "wants": 0, "last_seq": 1,
        "in_flight_reserved": 0, "interim_spend": 0, "closing": True,
    }  # fmt: skip


def event_of(offset: int, d: dict[str, Any], at: int) -> dict[str, Any]:
    """A drawn usage event."""
    occurred = at - d["back_s"] * SECOND
    event = usage(
        offset, tenant_id=d["tenant"], occurred_at=occurred, started_at=occurred,
        pool=d["pool"], outcome=d["outcome"], attempt=d["attempt"],
        event_type=d["kind"], request_model=d["model"], input_tokens=d["tokens"],
        output_tokens=0, source=d["source"], source_epoch=d["epoch"],
    )  # fmt: skip
    if d["priced"] or d["kind"] == "tool":  # one without a price costs nothing
        event |= {"cost_pusd": d["tokens"] * 1_000_000, "cost_source": "provider"}
    if not d["numbered"]:
        event["source_seq"] = None
    if d["kind"] == "tool":
        event |= {"input_tokens": 0, "tool_name": "t", "operation_name": "execute_tool"}
    elif d["kind"] == "correction":
        event |= {"corrects_event_id": "x", "input_tokens": -d["tokens"] // 2,
                  "cost_pusd": -d["tokens"] * 500_000, "cost_source": "provider",
                  "original_cost_pusd": d["tokens"] if d["priced"] else None}  # fmt: skip
    return event


@dataclass
class Count:
    """Shares of a partition, counted event by event."""

    policy: Policy | None = None
    time: int = 0
    shares: Shares = field(default_factory=dict)
    changed: Shares = field(default_factory=dict)

    def take(self, consumed: FakeRecord) -> None:
        """Apply one record."""
        before, self.time = self.time, max(self.time, consumed.timestamp * 1000)
        if before // (60 * SECOND) != self.time // (60 * SECOND):
            oldest = self.time - 36 * DAY_US
            self.shares = {k: s for k, s in self.shares.items() if s.period_end >= oldest}
        name, fields = decode(consumed.value or b"")
        if name == "UsageEvent":
            for budget in self.policy.budgets if self.policy else ():
                self.charge(budget, fields)
        elif name == "HolderReport":
            self.answer(fields)
        elif name == "Activate" and fields["kind"] == "policy":
            self.policy = POLICIES.get(fields["version"])

    def charge(self, budget: Budget, event: dict[str, Any]) -> None:
        """Add an event to the share of a budget that spans tenants."""
        scope = scope_of(budget, event)
        if "tenant_id" in (*budget.scope, *budget.where) or scope is None:
            return
        period = budgets.charged_period(budget, event["started_at"])
        correction = event["event_type"] == "correction"
        held = budget.hard and not correction and event["source_seq"]
        by = (event["source"], event["source_epoch"]) if held else ("", "")
        key = ShareKey(PARTITION, "laws", budget.budget_id, scope, period.period_id, *by)
        share = self.share(key, budget, (period.start, period.end))
        used = amount(budget.ledger_unit, event, event["cost_pusd"])
        share.settled += used
        if correction:
            share.corrected += used
            share.unpriced -= event["original_cost_pusd"] is None
        else:
            share.events += 1
            share.unpriced += event["cost_pusd"] is None
        if budget.rolling_us:
            share.period_end = max(share.period_end, self.time + 2 * budget.rolling_us)

    def share(self, key: ShareKey, budget: Budget, span: tuple[int, int]) -> Share:
        """A share, begun where there is none in the budget's unit."""
        known = self.shares.get(key)
        if known is None or known.unit != budget.ledger_unit:
            begun = self.time if known is None else max(self.time, known.begun_at + 1)
            span = (begun, begun) if budget.rolling_us else span
            self.shares[key] = Share(budget.ledger_unit, *span, begun)
        self.changed[key] = self.shares[key]
        return self.shares[key]

    def answer(self, asked: dict[str, Any]) -> None:
        """Say that no more of a process will come."""
        key = ShareKey(
            PARTITION, asked["policy_id"], asked["budget_ids"][0], asked["scope"],
            asked["period"], asked["holder"], asked["source_epoch"],
        )  # fmt: skip
        nothing = Share(asked["unit"], self.time, self.time, self.time)
        share = self.changed[key] = self.shares.get(key, nothing)
        share.closing = True

    def tell(self, position: int) -> Shares:
        """What a checkpoint tells."""
        told, self.changed = self.changed, {}
        for share in told.values():
            share.version = position
        return told


def checkpoint(part: Partition, stored: dict[bytes, bytes | None]) -> Shares:
    """Shares told, no one twice; what is stored goes to `stored`."""
    outs = part.take()
    stored |= {out.key: out.value for out in outs if out.topic == TOPICS.meter_state}
    rows = [decode(out.value or b"")[1] for out in outs if out.topic == TOPICS.leases]
    told = dict(map(read_share, rows))
    assert len(told) == len(rows)
    return told


@settings(max_examples=200, deadline=None)
@given(
    drawn=events, cuts=st.lists(st.integers(0, 40), max_size=6),
    restarts=st.lists(st.booleans(), min_size=8, max_size=8),
)  # fmt: skip
def test_told_shares_equal_a_slow_count(
    drawn: list[dict[str, Any]], cuts: list[int], restarts: list[bool]
) -> None:
    """At each checkpoint what changed is told as it is counted, also by another owner."""
    references = FakeReferences()
    names = [references.put(one) for one in (default_book(), *POLICIES.values())]
    start = [activate(offset, name) for offset, name in enumerate(names[:2])]
    part, count, stored = partition(references, PARTITION), Count(), dict[bytes, bytes | None]()
    for piece, restart in zip([start, *pieces(records(drawn), cuts)], restarts, strict=False):
        part.apply(piece)
        for consumed in piece:
            count.take(consumed)
        told = checkpoint(part, stored)
        assert told == count.tell(piece[-1].offset + 1 if piece else 0)
        if restart:
            part = partition(references, PARTITION, stored=stored)
    assert part.state.shares == count.shares
    assert not part.state.header.counters.get("dead_letters")


@settings(max_examples=100, deadline=None)
@given(drawn=events)
def test_single_records_give_the_shares_of_one_run(drawn: list[dict[str, Any]]) -> None:
    """One record at a time or all at once: the same shares, told or not."""
    made, references = records(drawn), FakeReferences()
    names = [references.put(one) for one in (default_book(), *POLICIES.values())]
    start = [activate(offset, name) for offset, name in enumerate(names[:2])]
    whole, single = partition(references, PARTITION), partition(references, PARTITION)
    whole.apply([*start, *made])
    for consumed in [*start, *made]:
        single.apply([consumed])
    assert checkpoint(single, {}) == checkpoint(whole, {})
