"""Policies: budgets, the rules of their ladders, and the version that names one exact content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from sluice.enforcement.periods import PeriodKind
from sluice.enforcement.policy_ladder import BudgetLadder, RiskLadder
from sluice.enforcement.policy_words import Ident, Share, Strict
from sluice.money import PUSD_PER_USD, pusd

MAX_LIMIT_PUSD = 9_000_000 * PUSD_PER_USD


def _money(value: Any) -> Any:
    """Pico-dollars of a YAML amount; an integer in canonical JSON is pico-dollars already."""
    return value if isinstance(value, int) and not isinstance(value, bool) else pusd(str(value))


Limit = Annotated[int, BeforeValidator(_money), Field(ge=0, le=MAX_LIMIT_PUSD)]


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


class Budget(Strict):
    """A limit on what each tenant may spend in a calendar period, and what happens on the way."""

    budget_id: Ident
    scope: tuple[str, ...]
    unit: str = "usd"
    limit_pusd: Limit
    limits: Mapping[str, Limit] = Field(default_factory=dict)
    period: PeriodKind
    time_zone: str = "UTC"
    hard: bool = False
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    on_expiry: Literal["open", "closed", "keep"] = "open"

    @field_validator("scope")
    @classmethod
    def _known_scope(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != ("tenant_id",):
            raise ValueError("the scope of a budget is [tenant_id] in this release")
        return value

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, value: str) -> str:
        if value != "usd":
            raise ValueError("the unit of a budget is usd in this release")
        return value

    @field_validator("hard")
    @classmethod
    def _soft_only(cls, value: bool) -> bool:  # noqa: FBT001 (pydantic calls it)
        if value:
            raise ValueError("hard budgets are not enforced in this release; leave hard out")
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

    def limit_for(self, tenant_id: str) -> int:
        """Limit of a tenant in pico-USD."""
        return self.limits.get(tenant_id, self.limit_pusd)


class Policy(Strict):
    """A whole policy; `version` follows from its content, not from its formatting."""

    policy_id: Ident
    mode: Literal["enforce", "shadow"] = "enforce"
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1)]
    ladder: BudgetLadder | None = None
    risk: RiskLadder | None = None

    @field_validator("budgets")
    @classmethod
    def _unique(cls, value: tuple[Budget, ...]) -> tuple[Budget, ...]:
        names = [budget.budget_id for budget in value]
        if len(set(names)) < len(names):
            raise ValueError("budget_id must be unique within a policy")
        return value

    @model_validator(mode="after")
    def _known_budgets(self) -> Policy:
        names = {budget.budget_id for budget in self.budgets}
        for rule in self.ladder.rules if self.ladder else ():
            if rule.budget_id is not None and rule.budget_id not in names:
                raise ValueError(f"ladder rule {rule.rule_id}: no budget {rule.budget_id!r}")
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sections that are left out are not named, so that older policies keep their version."""
        content: dict[str, Any] = handler(self)
        empty = {name for name in ("ladder", "risk") if content[name] is None}
        return {name: value for name, value in content.items() if name not in empty}

    @cached_property
    def version(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Canonical JSON, as it is published."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """A policy from its canonical JSON; pydantic.ValidationError where it is none."""
        return cls.model_validate_json(text)
