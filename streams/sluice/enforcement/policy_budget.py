"""A budget as a policy states it: who is counted, in what unit and period, and what follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from sluice.enforcement.units import UNITS, whole_amount
from sluice.money import PUSD_PER_USD
from sluice.wire.scopes import scope_text

MAX_LIMIT = 9_000_000 * PUSD_PER_USD  # in any unit, so that sums of events stay within 64 bits
SCOPE_FIELDS = (
    "tenant_id", "project_id", "end_user_hash", "api_key_hash", "model", "tool_name", "task_id",
    "region", "pool", "agent_name", "workflow_name",
)  # fmt: skip
# A decision about a scope without them would hit other requests, too.
UNDECIDED_FIELDS = frozenset({"agent_name", "workflow_name"})
SITUATIONS = (
    "control_stale", "lease_gone", "cold_start", "publisher_down", "unknown_scope", "no_price",
)  # fmt: skip
BudgetPeriod = Literal["minute", "hour", "day", "week", "month", "rolling", "task"]

_LENGTH = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_LENGTH_US = {"m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_LONGEST_US = 31 * _LENGTH_US["d"]  # usage is accepted for 35 days after it occurred
# Names that came after policies were first published; a policy without them keeps its version.
_LATER = ("where", "rolling", "parent", "raises", "weights", "fail", "lease_wait_ms",
          "refresh_after_ms")  # fmt: skip


def _share(value: Any) -> Any:
    text = str(value).strip()
    return Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)


Ident = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Amount = Annotated[int, Field(ge=0, le=MAX_LIMIT)]
Share = Annotated[Decimal, BeforeValidator(_share), Field(gt=0, le=1)]
_Said = Annotated[str, Field(min_length=1, max_length=200)]


class Strict(BaseModel):
    """What every part of a policy is: unchangeable, without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Strict):
    """One rung of a ladder: at this share of the limit, this happens."""

    rule_id: Ident
    at: Share
    action: Literal["rate_limit", "block"]
    rate_per_minute: Annotated[int, Field(gt=0)] | None = None
    burst: Annotated[int, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _rate_where_needed(self) -> Rule:
        if (self.action == "rate_limit") != (self.rate_per_minute is not None):
            raise ValueError("rate_per_minute goes with action rate_limit, and only with it")
        return self

    @field_serializer("at")
    def _plain(self, value: Decimal) -> str:
        return format(value.normalize(), "f")


class Raise(Strict):
    """More room in one scope for a while, with who gave it and why; part of the policy version."""

    scope: str
    add: Annotated[int, Field(gt=0, le=MAX_LIMIT)]
    until: AwareDatetime
    by: _Said
    reason: _Said

    @cached_property
    def until_us(self) -> int:
        """End of the raise, µs UTC."""
        whole = self.until.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        return (whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds


class Budget(Strict):
    """A limit on what each scope may use in a period, and what happens on the way.

    Amounts are whole numbers of the ledger's unit (usd: pico-USD). `limits` and `raises` name a
    scope as BudgetRow.scope, or by its bare value where the scope has one field.
    """

    budget_id: Ident
    scope: tuple[str, ...]
    where: Mapping[str, str] = Field(default_factory=dict)
    unit: str = "usd"
    limit: Amount = Field(validation_alias=AliasChoices("limit", "limit_pusd"))
    limits: Mapping[str, Amount] = Field(default_factory=dict)
    raises: tuple[Raise, ...] = ()
    period: BudgetPeriod
    rolling: str | None = None
    time_zone: str = "UTC"
    parent: Ident | None = None
    hard: bool = False
    lease_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 250
    refresh_after_ms: Annotated[int, Field(ge=100, le=60_000)] = 5000
    weights: Mapping[str, Annotated[int, Field(gt=0, le=1000)]] = Field(default_factory=dict)
    fail: Mapping[str, Literal["open", "closed"]] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    on_expiry: Literal["open", "closed", "keep"] = "open"

    @field_validator("scope")
    @classmethod
    def _known_scope(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a field stands twice in the scope")
        return _known(value, SCOPE_FIELDS, "field of a scope")

    @field_validator("where")
    @classmethod
    def _known_matches(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        _known(tuple(value), SCOPE_FIELDS, "field to match")
        return value

    @field_validator("fail")
    @classmethod
    def _known_situations(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        _known(tuple(value), SITUATIONS, "situation")
        return value

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, value: str) -> str:
        _known((value,), tuple(UNITS), "unit of a budget")
        return value

    @field_validator("limit", mode="before")
    @classmethod
    def _whole_limit(cls, value: Any, info: ValidationInfo) -> Any:
        return _whole(value, info)

    @field_validator("limits", mode="before")
    @classmethod
    def _whole_limits(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {scope: _whole(amount, info) for scope, amount in value.items()}

    @field_validator("raises", mode="before")
    @classmethod
    def _whole_raises(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list):
            return value
        return [
            item | {"add": _whole(item["add"], info)}
            if isinstance(item, dict) and "add" in item
            else item
            for item in value
        ]

    @field_validator("rolling")
    @classmethod
    def _known_length(cls, value: str | None) -> str | None:
        if value is not None and not 0 < _length_us(value) <= _LONGEST_US:
            raise ValueError("a rolling period is a length such as 90m, 24h or 7d, 31d at most")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no IANA time zone") from error
        return value

    @field_validator("rules")
    @classmethod
    def _a_ladder(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.rule_id for rule in value]
        if len(set(names)) < len(names):
            raise ValueError("rule_id must be unique within a budget")
        if len({rule.at for rule in value}) < len(value):
            raise ValueError("two rules take effect at the same share")
        return tuple(sorted(value, key=lambda rule: rule.at))

    @model_validator(mode="after")
    def _fits_together(self) -> Budget:
        for is_wrong, sentence in _MISFITS:
            if is_wrong(self):
                raise ValueError(sentence)
        for name in (*self.limits, *(entry.scope for entry in self.raises)):
            if _scope_named(self.scope, name) is None:
                raise ValueError(f"{name!r} names no scope; write {_pattern(self.scope)}")
        return self

    @model_serializer(mode="wrap")
    def _canonical(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without later names that say nothing, so that versions of old policies stay."""
        value = handler(self)
        for name in _LATER:
            if getattr(self, name) == type(self).model_fields[name].get_default(
                call_default_factory=True
            ):
                del value[name]
        if self.unit == "usd":
            value["limit_pusd"] = value.pop("limit")
        return value

    @property
    def ledger_unit(self) -> str:
        """Unit of the amounts, as BudgetRule.unit."""
        return UNITS[self.unit].ledger_unit

    @property
    def of_tenant(self) -> bool:
        """Whether each ledger belongs to one tenant and its partition; else it spans tenants."""
        return "tenant_id" in self.scope or "tenant_id" in self.where

    @cached_property
    def rolling_us(self) -> int | None:
        """Length of a rolling period, µs."""
        return None if self.rolling is None else _length_us(self.rolling)

    @cached_property
    def scope_limits(self) -> dict[str, int]:
        """Limits of single scopes by BudgetRow.scope, raises left out."""
        return {_scope_named(self.scope, name) or "": limit for name, limit in self.limits.items()}

    @cached_property
    def scope_raises(self) -> dict[str, list[Raise]]:
        """Raises by BudgetRow.scope."""
        found: dict[str, list[Raise]] = {}
        for entry in self.raises:
            found.setdefault(_scope_named(self.scope, entry.scope) or "", []).append(entry)
        return found

    def limit_for(self, scope: str, time: int) -> int:
        """Limit of a scope (as BudgetRow.scope) at `time` (µs UTC), raises included."""
        limit = self.scope_limits.get(scope, self.limit)
        raised = (r.add for r in self.scope_raises.get(scope, ()) if time < r.until_us)
        return min(limit + sum(raised), MAX_LIMIT)

    def thresholds(self, limit: int) -> tuple[int, ...]:
        """Usage at which each rule takes effect, rounded up to whole units of a limit."""
        found = self._thresholds.get(limit)
        if found is None:
            exact = [Fraction(rule.at) * limit for rule in self.rules]
            found = tuple(-(-at.numerator // at.denominator) for at in exact)
            self._thresholds[limit] = found
        return found

    @cached_property
    def _thresholds(self) -> dict[int, tuple[int, ...]]:
        """Asked for at every event, of few limits."""
        return {}

    def limit_until(self, scope: str, time: int) -> int | None:
        """When the next raise of a scope ends after `time`, µs UTC; None = the limit stays."""
        ends = (r.until_us for r in self.scope_raises.get(scope, ()) if time < r.until_us)
        return min(ends, default=None)


_MISFITS: tuple[tuple[Callable[[Budget], bool], str], ...] = (
    (lambda b: (b.period == "rolling") != (b.rolling is not None),
     "rolling: <length> goes with period rolling, and only with it"),
    (lambda b: b.period == "task" and "task_id" not in b.scope,
     "a budget with period task needs task_id in its scope"),
    (lambda b: b.period == "task" and not b.of_tenant,
     "a task belongs to one tenant: a budget with period task names tenant_id in scope or where"),
    (lambda b: not b.hard and not b.rules, "a soft budget needs at least one rule"),
    (lambda b: b.unit == "concurrency" and not b.hard,
     "a concurrency budget is hard: it is reserved and never spent"),
    (lambda b: b.unit == "concurrency" and bool(b.rules),
     "a concurrency budget has no rules: nothing is ever spent of it"),
    (lambda b: bool(b.rules) and not UNDECIDED_FIELDS.isdisjoint((*b.scope, *b.where)),
     "rules act on decisions, whose scope has no agent_name and no workflow_name"),
    (lambda b: bool(b.weights) and not b.hard, "weights go with hard budgets: they share leases"),
)  # fmt: skip


def _known(names: tuple[str, ...], known: tuple[str, ...], what: str) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise ValueError(f"{name} is no {what}; one of: {', '.join(known)}")
    return names


def _whole(value: Any, info: ValidationInfo) -> Any:
    """Ledger units of an amount in text; a whole number is one of ledger units already."""
    return whole_amount(value, info.data.get("unit", "usd")) if isinstance(value, str) else value


def _length_us(text: str) -> int:
    found = _LENGTH.fullmatch(text)
    return int(found[1]) * _LENGTH_US[found[2]] if found else 0


def _scope_named(fields: tuple[str, ...], name: str) -> str | None:
    """The scope that a name in `limits` or `raises` stands for; None where it stands for none."""
    if not fields:
        return name if name == "" else None
    named = [part.partition("=")[0] for part in name.split(",")]
    if "=" in name and named == sorted(fields):
        return name
    return scope_text([(fields[0], name)]) if len(fields) == 1 and name else None


def _pattern(fields: tuple[str, ...]) -> str:
    return ",".join(f"{field}=..." for field in sorted(fields)) or "''"
