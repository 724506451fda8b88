"""Laws of budgets: runs of usage give what single events give, and what a slow judge says."""

from __future__ import annotations

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
from tests.laws.budget_oracle import Judge
from tests.laws.streams import pieces

from sluice.metering.prices import default_book
from sluice.runtime.outputs import OutRecord
from sluice.runtime.partition import Partition
from sluice.runtime.state import LEDGER
from sluice.wire.codec import decode

POLICY = policy("""
policy_id: laws
budgets:
  - budget_id: money
    scope: [tenant_id]
    limit: "0.0004"
    period: minute
    rules:
      - {rule_id: slow, at: 50%, action: rate_limit, rate_per_minute: 3}
      - {rule_id: stop, at: 100%, action: block}
  - budget_id: pool
    scope: [tenant_id, model]
    where: {pool: p}
    unit: tokens
    limit: 3000
    limits: {"model=m,tenant_id=a": 1000}
    raises:
      - {scope: "model=m,tenant_id=b", add: 500, until: 2027-01-15T08:01:00Z, by: k, reason: r}
    period: hour
    rules: [{rule_id: stop, at: 100%, action: block}]
  - budget_id: rolling
    scope: [tenant_id]
    unit: tokens
    limit: 2500
    period: rolling
    rolling: 1m
    rules:
      - {rule_id: slow, at: 30%, action: rate_limit, rate_per_minute: 3}
      - {rule_id: stop, at: 100%, action: block}
  - budget_id: task
    scope: [tenant_id, task_id]
    unit: steps
    limit: 4
    period: task
    rules: [{rule_id: stop, at: 100%, action: block}]
  - budget_id: calls
    scope: [tenant_id, project_id]
    unit: requests
    limit: 6
    period: hour
    rules: [{rule_id: stop, at: 75%, action: block}]
""")

events = st.lists(
    st.fixed_dictionaries(
        {
            "tenant": st.sampled_from("aab"),
            "gap_ms": st.sampled_from([0, 0, 0, 1, 30, 400, 1100, 20_000, 61_000]),
            "back_s": st.sampled_from([0, 0, 0, 1, 30, 59, 61, 3000]),
            "tokens": st.integers(0, 900),
            "model": st.sampled_from(["m", "n"]),
            "kind": st.sampled_from(["inference"] * 6 + ["tool", "correction", "tick"]),
            "pool": st.sampled_from(["p", "p", None, "q"]),
            "task": st.sampled_from([None, "t", "u"]),
            "outcome": st.sampled_from(["ok", "ok", "throttled"]),
            "attempt": st.sampled_from([1, 1, 2]),
        }
    ),
    max_size=50,
)


def records(drawn: list[dict[str, Any]]) -> list[FakeRecord]:
    """The drawn events as consumed records."""
    made, at = [], NOW
    for offset, d in enumerate(drawn, 2):
        at += d["gap_ms"] * 1000
        if d["kind"] == "tick":
            made.append(tick(offset, at))
            continue
        occurred = at - d["back_s"] * 1_000_000
        event = usage(
            offset, tenant_id=d["tenant"], occurred_at=occurred, started_at=occurred,
            pool=d["pool"], task_id=d["task"], outcome=d["outcome"], attempt=d["attempt"],
            event_type=d["kind"], request_model=d["model"], input_tokens=d["tokens"],
            output_tokens=0, cost_pusd=d["tokens"] * 1_000_000, cost_source="provider",
        )  # fmt: skip
        if d["kind"] == "tool":
            event |= {"input_tokens": 0, "tool_name": "t", "operation_name": "execute_tool"}
        elif d["kind"] == "correction":
            event |= {"corrects_event_id": "x", "input_tokens": -d["tokens"] // 2,
                      "cost_pusd": -d["tokens"] * 500_000}  # fmt: skip
        made.append(record(offset, event, at=at))
    return made


def begun() -> tuple[Partition, FakeReferences]:
    """A partition under the policy."""
    references = FakeReferences()
    part = partition(references)
    part.apply([activate(0, references.put(default_book())), activate(1, references.put(POLICY))])
    return part, references


def taken(part: Partition) -> tuple[list[OutRecord], dict[bytes, bytes | None]]:
    """Outputs in their order, and ledgers as they are stored."""
    outs = part.take()
    stored = {o.key: o.value for o in outs if o.topic == TOPICS.meter_state}
    return [o for o in outs if o.topic != TOPICS.meter_state], stored


def ledgers(part: Partition) -> tuple[list[OutRecord], list[tuple[bytes, bytes | None]]]:
    """Outputs, and stored ledgers in the order in which they first changed."""
    outs, stored = taken(part)
    return outs, [row for row in stored.items() if row[0].startswith(LEDGER)]


@settings(max_examples=150, deadline=None)
@given(drawn=events, cuts=st.lists(st.integers(0, 50), max_size=5))
def test_runs_give_the_bytes_of_single_events(drawn: list[dict[str, Any]], cuts: list[int]) -> None:
    """One event at a time, one run, or anything between: the same outputs and the same state."""
    made = records(drawn)
    alone, whole, cut = begun()[0], begun()[0], begun()[0]
    for one in made:
        alone.apply([one])
    whole.apply(made)
    for piece in pieces(made, cuts):
        cut.apply(piece)
    expected = ledgers(alone)
    assert ledgers(whole) == expected
    assert ledgers(cut) == expected


@settings(max_examples=80, deadline=None)
@given(drawn=events, cuts=st.lists(st.integers(0, 50), max_size=4))
def test_a_restart_changes_no_byte(drawn: list[dict[str, Any]], cuts: list[int]) -> None:
    """A successor that goes on from stored rows decides what a process that never ended would."""
    made = records(drawn)
    whole, _ = begun()
    whole.apply(made)
    part, references = begun()
    produced, stored = taken(part)
    for piece in pieces(made, cuts):
        part = partition(references, stored=stored)
        part.apply(piece)
        outs, rows = taken(part)
        produced += outs
        stored |= rows
    assert produced == taken(whole)[0]


@settings(max_examples=150, deadline=None)
@given(drawn=events)
def test_ledgers_and_decisions_are_what_a_slow_judge_says(drawn: list[dict[str, Any]]) -> None:
    """Sums, counts and the place of every decision, for each unit, scope and period."""
    made = records(drawn)
    part, _ = begun()
    part.apply(made)
    judge, second = Judge(POLICY), NOW // 1_000_000
    for one in made:
        time = one.timestamp * 1000
        if time // 1_000_000 != second:
            second = time // 1_000_000
            judge.pass_time(one.offset, time)
        name, event = decode(one.value or b"")
        if name == "UsageEvent":
            judge.take(one.offset, time, event, event["cost_pusd"])
    found = {
        (key.budget_id, key.scope, key.period_id): (ledger.settled, ledger.events)
        for key, ledger in part.state.ledgers.items()
    }
    now = part.state.header.time
    for name, (settled, events) in found.items():
        account = judge.accounts[name]
        assert (settled, events) == (account.settled(now), account.events), name
    assert found.keys() == judge.accounts.keys()
    decided = []
    for out in part.take():
        if out.topic == TOPICS.control and out.key.startswith(b"decision|") and out.value:
            d = decode(out.value)[1]
            scope = out.key.decode().split("|")[4]
            offset = d["evidence"]["offsets"][0]["offset"]
            decided.append((offset, d["rule_id"], scope, d["action"]))
    # A rolling decision that outlasts itself is said again; the judge tells changes only.
    assert _changes(decided) == _changes(judge.decisions)


def _changes(decisions: list[tuple[int, str, str, str]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for offset, budget, scope, action in decisions:
        told = found.setdefault((budget, scope), [])
        if not (budget == "rolling" and told and told[-1][1] == action):
            told.append((offset, action))
    return found
