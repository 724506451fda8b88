"""Amounts of ledgers told to people, and the scopes that they type."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from sluice.errors import ConfigError
from sluice.money import format_usd, usd
from sluice.wire.scopes import scope_fields

SCOPE_FIELDS = (
    "tenant_id", "project_id", "end_user_hash", "api_key_hash", "model", "tool_name", "task_id",
    "region", "pool", "agent_name", "workflow_name",
)  # fmt: skip
_MICRO_USD_PUSD = 10**6


def amount_text(amount: int | None, unit: str) -> str:
    """An amount in a ledger's unit; "-" where it was not measured."""
    if amount is None:
        return "-"
    return f"{format_usd(amount)} USD" if unit == "pusd" else f"{amount:,} {unit}"


def plain_amount(amount: int, unit: str) -> str:
    """An amount as a policy and an option take it; money is rounded up to a micro-dollar."""
    if unit != "pusd":
        return str(amount)
    up = usd(amount).quantize(Decimal("0.000001"), ROUND_CEILING)
    return f"{up.normalize():f}"


def percent_text(part: int, whole: int) -> str:
    """A share of a limit; a limit of 0 is used up."""
    return f"{Decimal(100 * part) / whole:.1f} %" if whole else "100 %"


def rounded_up(amount: int, unit: str) -> int:
    """The amount that `plain_amount` shows."""
    if unit != "pusd":
        return amount
    return -(-amount // _MICRO_USD_PUSD) * _MICRO_USD_PUSD


def read_scope(text: str) -> dict[str, str]:
    """Fields of a scope such as tenant_id=acme,model=gpt-4o; empty = everything.

    Raises ConfigError naming a part that is no field=value, or a field that no scope has.
    """
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"--scope {text}: {part!r} is no field=value")
        if name not in SCOPE_FIELDS:
            raise ConfigError(f"--scope {text}: {name} is none of {', '.join(SCOPE_FIELDS)}")
    return dict(scope_fields(text))


def touches(scope: str, wanted: dict[str, str]) -> bool:
    """Whether a ledger's scope can concern `wanted`, which may leave fields open."""
    return all(wanted.get(name) in (None, value) for name, value in scope_fields(scope).items())
