"""What budgets say about usage, event by event, the slow and plain way.

No columns, no rings, no heaps: every charge is remembered with its time, and a sum is made anew
whenever it is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sluice.enforcement.policy import Budget, Policy
from sluice.periods import period_of

SLICES = 60
Event = dict[str, Any]
Name = tuple[str, str, str]  # budget, scope, period


@dataclass
class Account:
    """Everything that was charged to one ledger: (admitted, amount)."""

    budget: Budget
    scope: str
    period_id: str
    begin: int
    end: int
    charges: list[tuple[int, int]] = field(default_factory=list)
    events: int = 0
    rung: int = 0

    def settled(self, time: int) -> int:
        """The sum that counts at `time`."""
        if self.budget.rolling_us is None:
            return sum(amount for _, amount in self.charges)
        length = self.budget.rolling_us // SLICES
        first = time // length - SLICES
        return sum(amount for at, amount in self.charges if at // length >= first)


class Judge:
    """Accounts by name, and every decision: (offset, budget, scope, action)."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.accounts: dict[Name, Account] = {}
        self.decisions: list[tuple[int, str, str, str]] = []

    def take(self, offset: int, time: int, event: Event, price: int | None) -> None:
        """Charge one new event and judge its ledgers."""
        for budget in self.policy.budgets:
            scope = _scope(budget, event)
            if scope is not None:
                account = self._account(budget, scope, event)
                account.charges.append((event["started_at"], _used(budget.unit, event, price)))
                account.events += event["event_type"] != "correction"
                self._look(offset, time, account)

    def pass_time(self, offset: int, time: int) -> None:
        """Judge again what time alone can change."""
        for account in self.accounts.values():
            if account.budget.rolling_us is not None:
                self._look(offset, time, account)

    def _look(self, offset: int, time: int, account: Account) -> None:
        if account.budget.rolling_us is None and not account.begin <= time < account.end:
            return
        limit = account.budget.limit_for(account.scope, time)
        reached = [rule for rule in account.budget.rules
                   if account.settled(time) >= rule.at * limit]  # fmt: skip
        if len(reached) != account.rung:
            account.rung = len(reached)
            action = reached[-1].action if reached else "allow"
            self.decisions.append((offset, account.budget.budget_id, account.scope, action))

    def _account(self, budget: Budget, scope: str, event: Event) -> Account:
        started = event["started_at"]
        if budget.period in ("rolling", "task"):
            span: Any = (budget.period, started, started + 7 * 86_400_000_000)
        else:
            period = period_of(budget.period, budget.time_zone, started)
            span = (period.period_id, period.start, period.end)
        name = (budget.budget_id, scope, span[0])
        return self.accounts.setdefault(name, Account(budget, scope, *span))


def _scope(budget: Budget, event: Event) -> str | None:
    values = {name: event["request_model" if name == "model" else name]
              for name in (*budget.scope, *budget.where)}  # fmt: skip
    if any(values[name] != wanted for name, wanted in budget.where.items()):
        return None
    if not all(values[name] for name in budget.scope):
        return None
    return ",".join(f"{name}={values[name]}" for name in sorted(budget.scope))


def _used(unit: str, event: Event, price: int | None) -> int:
    ran = event["outcome"] not in ("rejected", "throttled", "queued_out")
    request = event["event_type"] in ("inference", "embedding")
    if unit == "usd":
        return price or 0
    if unit == "tokens":
        return int(event["input_tokens"] + event["output_tokens"])
    if unit == "requests":
        return int(ran and request)
    if unit == "tool_calls":
        return int(ran and event["event_type"] == "tool")
    assert unit == "steps"
    return int(ran and request and event["attempt"] == 1 and event["attempt_kind"] is None)
