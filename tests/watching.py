"""Watchers for tests: a policy with every signal, facts by hand, decisions as published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sluice.enforcement.decisions import Cause
from sluice.enforcement.ladder_decisions import Published, decisions
from sluice.enforcement.policy import Policy
from sluice.enforcement.signals.burn import Term
from sluice.enforcement.watch import Change, Watchers
from sluice.metering.tasks import TaskLook
from tests.builders import POLICY, arrived, policy
from tests.laws.one_by_one_tasks import TaskSums, look_at

SECOND_US = 1_000_000
# Of broker time: a border of looks and of sweeps.
START = 1_800_000_000_000_000
DAY_US = 86_400 * SECOND_US

LADDERS = """
ladder:
  hold_s: 10
  keep_s: 60
  dwell_s: 20
  ceilings: {guaranteed: rate_limit, standard: queue, batch: block}
  rules:
    - {rule_id: fast, signal: burn, budget_id: tenant-day, at: 14.4, min_events: 3,
       action: rate_limit, rate_per_minute: 60}
    - {rule_id: slow, signal: burn, budget_id: tenant-day, windows: 30m/6h, at: 6, min_events: 3,
       action: allow_with_caps, max_tokens: 100}
    - {rule_id: ends, signal: exhaustion, budget_id: tenant-day, at: 2, action: degrade,
       fallback_models: [small]}
    - {rule_id: bad, signal: slo_burn, target: 90%, at: 5, min_events: 5, action: queue,
       queue_timeout_ms: 500}
risk:
  hold_s: 0
  keep_s: 60
  dwell_s: 20
  rules:
    - {rule_id: circles, signal: loop, at: 1, action: block, boundary: task}
    - {rule_id: dear, signal: task_cost, at: 3, action: allow_with_caps, max_steps_remaining: 5}
    - {rule_id: storm, signal: retry_share, at: 40%, min_events: 5, action: rate_limit,
       rate_per_minute: 30}
    - {rule_id: dearer, signal: drift, at: 8, action: allow_with_caps, max_tokens: 50}
    - {rule_id: noisy, signal: noisy_neighbour, at: 60%, others_wait_ms: 100, over_usual: 1.5,
       min_events: 3, action: isolate, pool: overflow}
    - {rule_id: jitter, signal: jitter, at: 3, action: queue, queue_timeout_ms: 100,
       priorities: [batch]}
"""

# The same with a rate that moves by what is left of the budget.
MOVING = LADDERS.replace("rate_per_minute: 60", "rate_per_minute: 60, floor_per_minute: 25")


def watching(text: str = POLICY + LADDERS) -> Policy:
    """A policy with ladders."""
    return policy(text)


class Books:
    """Facts by hand: every tenant has the same budget for a day that began at START."""

    def __init__(self, limit: int = 10**12, committed: int = 0) -> None:
        self.known = Term(limit, committed, START, START + DAY_US)
        self.held: dict[tuple[str, str], TaskSums] = {}

    def term(self, policy_id: str, budget_id: str, tenant_id: str) -> tuple[str, Term] | None:
        assert (policy_id, budget_id) == ("test", "tenant-day")
        return "pusd", self.known

    def task(self, tenant_id: str, task_id: str) -> TaskLook | None:
        sums = self.held.get((tenant_id, task_id))
        return None if sums is None else look_at(sums)

    def tasks(self, since: int) -> Iterable[tuple[str, str]]:
        return [key for key, sums in self.held.items() if sums.seen_at >= since]


def watchers(books: Books, *policies: Policy) -> Watchers:
    """Watchers of these policies, else of the one above."""
    made = Watchers(books)
    made.use(policies or [watching()])
    return made


def published(changes: Sequence[Change], time: int, offset: int = 0) -> list[Published]:
    """Messages of changes that a record of partition 0 caused."""
    cause = Cause(0, offset, time, 1)
    return [m for c in changes for m in decisions(c.policy, c.moved, c.standing, cause)]


def request(**over: Any) -> dict[str, Any]:
    """A usage event as it arrived."""
    return arrived(1, **over)
