"""Amounts of ledgers told to people, and the scopes that they type."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from sluice.enforcement.policy_budget import SCOPE_FIELDS as LEDGER_FIELDS
from sluice.enforcement.units import UNITS, shown_amount
from sluice.errors import ConfigError
from sluice.money import usd
from sluice.wire.scopes import ALL_TENANTS, scope_fields, scope_text

# Decisions of ladders are about one priority; no ledger is.
SCOPE_FIELDS = (*LEDGER_FIELDS, "priority")
# What people type for a scope without fields.
EVERY_SCOPE = "all"
_MICRO_USD_PUSD = 10**6
_PER = {unit.ledger_unit: unit.per for unit in UNITS.values()}


def amount_text(amount: int | None, ledger_unit: str) -> str:
    """An amount of a ledger or a signal; "-" where it was not measured."""
    if amount is None:
        return "-"
    if ledger_unit in _PER:
        return shown_amount(amount, ledger_unit)
    if ledger_unit == "ppm":
        return f"{Decimal(amount) / 10_000:,.1f} %"
    if ledger_unit == "us":
        return f"{Decimal(amount) / 1_000_000:,.3f} s"
    return f"{amount:,} {ledger_unit}"


def plain_amount(amount: int, ledger_unit: str) -> str:
    """An amount as a policy and an option take it; money is rounded up to a micro-dollar."""
    if ledger_unit != "pusd":
        return f"{Decimal(amount) / _PER.get(ledger_unit, 1):f}"
    return f"{usd(rounded_up(amount, ledger_unit)).normalize():f}"


def percent_text(part: int, whole: int) -> str:
    """A share of a limit; a limit of 0 is used up."""
    return f"{Decimal(100 * part) / whole:.1f} %" if whole else "100 %"


def rounded_up(amount: int, ledger_unit: str) -> int:
    """The amount that `plain_amount` shows."""
    if ledger_unit != "pusd":
        return amount
    return -(-amount // _MICRO_USD_PUSD) * _MICRO_USD_PUSD


def read_scope(text: str) -> dict[str, str]:
    """Fields of a scope such as tenant_id=acme,model=gpt-4o; empty or `all` = all tenants.

    Raises ConfigError naming a part that is no field=value, or a field that no scope has.
    """
    if text in ("", EVERY_SCOPE):
        return {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"--scope {text}: {part!r} is no field=value")
        if name not in SCOPE_FIELDS:
            raise ConfigError(f"--scope {text}: {name} is none of {', '.join(SCOPE_FIELDS)}")
    return dict(scope_fields(text))


def touches(fields: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether usage with these fields can be of the scope `wanted`, which may leave some open."""
    return all(wanted.get(name) in (None, value) for name, value in fields.items())


def whose(scope: str, tenant_id: str = "") -> str:
    """A scope as people are told it; a ledger without one is its tenant's, or all tenants'."""
    if scope or not tenant_id:
        return scope or ALL_TENANTS
    return scope_text([("tenant_id", tenant_id)])
