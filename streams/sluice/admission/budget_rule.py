"""Budgets as an admission point knows them: whom they concern, and what holds in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, Literal, NamedTuple, cast

from sluice.periods import PERIOD_KINDS, PeriodKind, period_of
from sluice.wire.scopes import ALL_TENANTS, scope_text

SITUATIONS = (
    "control_stale", "lease_gone", "cold_start", "publisher_down", "unknown_scope", "no_price",
)  # fmt: skip
# Fields that a request has only if it is of that kind; a budget by another field must know it.
_OF_SOME_REQUESTS = frozenset({"model", "tool_name", "task_id", "agent_name", "workflow_name"})

Fails = Literal["open", "closed"]
Version = tuple[int, int]


class Span(NamedTuple):
    """A budget period: its id and its end, µs UTC (None: no calendar ends it)."""

    period_id: str
    end: int | None


class UnknownScope(NamedTuple):
    """A request that a budget concerns lacks this field, by which the budget has its ledgers."""

    field: str


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """One budget of a policy in force; amounts are in `unit`, times in ms."""

    key: bytes
    policy_id: str
    policy_version: str
    budget_id: str
    mode: str
    scope: tuple[str, ...]
    where: tuple[tuple[str, str], ...]
    parent: str | None
    unit: str
    limit: int
    limits: Mapping[str, int]
    period: str
    time_zone: str
    hard: bool
    lease_wait_ms: int
    refresh_after_ms: int
    fail: Mapping[str, str]
    version: Version
    issued_at: int

    @property
    def shadow(self) -> bool:
        """Whether it is only shown, never obeyed."""
        return self.mode == "shadow"

    @property
    def guards(self) -> bool:
        """Whether it can refuse a request before it runs."""
        return not self.shadow and (self.hard or "closed" in self.fail.values())

    @property
    def of_tenant(self) -> bool:
        """Whether each ledger belongs to one tenant, whose partition grants its leases."""
        return "tenant_id" in self.scope or any(name == "tenant_id" for name, _ in self.where)

    def whom(self, scope: str) -> str:
        """A ledger in words: whose usage it counts."""
        return scope or ("everything" if self.of_tenant else ALL_TENANTS)

    def fails(self, situation: str) -> Fails:
        """What holds in a situation in which the limit is not known.

        One that is not named is closed for a hard budget and open for a soft one; so is one whose
        action is unknown here, except that it is then closed for both.
        """
        action = self.fail.get(situation, "closed" if self.hard else "open")
        return "open" if action == "open" else "closed"

    def concerns(self, request: Any) -> bool:
        """Whether usage of this request counts, its attributes being the scope fields."""
        if any(getattr(request, name, None) != value for name, value in self.where):
            return False
        return all(getattr(request, name, None) or name not in _OF_SOME_REQUESTS
                   for name in self.scope)  # fmt: skip

    def scope_of(self, request: Any) -> str | UnknownScope:
        """The ledger of a request that it concerns, as BudgetRow.scope."""
        pairs = []
        for name in self.scope:
            value = getattr(request, name, None)
            if not value:
                return UnknownScope(name)
            pairs.append((name, value))
        return scope_text(pairs)

    def span_at(self, instant: int) -> Span:
        """The period that a request admitted at `instant` (µs UTC) is charged to."""
        if self.period not in PERIOD_KINDS:
            return Span(self.period, None)
        period = period_of(cast("PeriodKind", self.period), self.time_zone, instant)
        return Span(period.period_id, period.end)

    def limit_of(self, scope: str) -> int:
        """Limit of a period in one scope."""
        return self.limits.get(scope, self.limit)


def read_rule(key: bytes, record: Mapping[str, Any]) -> BudgetRule:
    """A BudgetRule record as the point holds it."""
    return BudgetRule(
        key=key,
        policy_id=intern(record["policy_id"]),
        policy_version=intern(record["policy_version"]),
        budget_id=intern(record["budget_id"]),
        mode=intern(record["mode"]),
        scope=tuple(record["scope"]),
        where=tuple((item["key"], item["value"]) for item in record["where"]),
        parent=record["parent"],
        unit=intern(record["unit"]),
        limit=record["limit"],
        limits={item["key"]: item["value"] for item in record["limits"]},
        period=intern(record["period"]),
        time_zone=intern(record["time_zone"]),
        hard=record["hard"],
        lease_wait_ms=record["lease_wait_ms"],
        refresh_after_ms=record["refresh_after_ms"],
        fail={item["situation"]: item["action"] for item in record["fail"]},
        version=(record["epoch"], record["sequence"]),
        issued_at=record["issued_at"],
    )


class BudgetRules:
    """Budgets in force; each partition's owner has a word, and the latest one holds.

    `guarding` is replaced, never changed: it may be read beside a change.
    """

    def __init__(self) -> None:
        self.by_key: dict[bytes, BudgetRule] = {}
        self.in_force: dict[tuple[str, str], BudgetRule] = {}
        self.guarding: tuple[BudgetRule, ...] = ()
        self._said: dict[tuple[str, str], dict[bytes, BudgetRule]] = {}

    def put(self, rule: BudgetRule) -> None:
        """Take the newest word of one partition."""
        self.by_key[rule.key] = rule
        self._said.setdefault((rule.policy_id, rule.budget_id), {})[rule.key] = rule
        self._settle((rule.policy_id, rule.budget_id))

    def drop(self, key: bytes) -> bool:
        """Forget a partition's word; a budget that another one names stays in force."""
        rule = self.by_key.pop(key, None)
        if rule is None:
            return False
        self._said[rule.policy_id, rule.budget_id].pop(key)
        self._settle((rule.policy_id, rule.budget_id))
        return True

    def _settle(self, name: tuple[str, str]) -> None:
        said = self._said[name]
        if said:
            self.in_force[name] = max(said.values(), key=lambda rule: (rule.issued_at, rule.key))
        else:
            del self._said[name], self.in_force[name]
        self.guarding = tuple(rule for rule in self.in_force.values() if rule.guards)
