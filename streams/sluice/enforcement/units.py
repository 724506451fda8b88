"""What budgets are counted in: units as people write them, whole amounts as ledgers hold them."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from sluice.money import PUSD_PER_USD, format_usd, pusd


class Unit(NamedTuple):
    """A unit of a policy: the whole unit of its ledgers, and how many of those it has."""

    ledger_unit: str
    per: int = 1


UNITS: dict[str, Unit] = {
    "usd": Unit("pusd", PUSD_PER_USD),
    "tokens": Unit("tokens"),
    "input_tokens": Unit("input_tokens"),
    "output_tokens": Unit("output_tokens"),
    "gpu_seconds": Unit("gpu_us", 1_000_000),
    "kv_byte_seconds": Unit("kv_byte_ms", 1000),
    "requests": Unit("requests"),
    "tool_calls": Unit("tool_calls"),
    "steps": Unit("steps"),
    "concurrency": Unit("concurrency"),
}
_NAMES = {unit.ledger_unit: name for name, unit in UNITS.items()}


def whole_amount(text: str, unit: str) -> int:
    """Ledger units of an amount in a policy's unit; ValueError where it is no whole number."""
    if unit == "usd":
        return pusd(text)
    ledger_unit, per = UNITS[unit]
    try:
        scaled = Decimal(text) * per
    except InvalidOperation as error:
        raise ValueError(f"not an amount of {unit}: {text!r}") from error
    if not scaled.is_finite() or scaled != scaled.to_integral_value():
        raise ValueError(f"{text} {unit} is not a whole number of {ledger_unit}")
    return int(scaled)


def shown_share(part: int, whole: int, ledger_unit: str) -> str:
    """Two amounts of a ledger for people, such as "0.000800 of 0.001000 USD"."""
    return f"{_shown(part, ledger_unit)} of {shown_amount(whole, ledger_unit)}"


def shown_amount(amount: int, ledger_unit: str) -> str:
    """An amount of a ledger for people, in the unit that policies use."""
    return f"{_shown(amount, ledger_unit)} {_NAMES[ledger_unit].replace('_', ' ')}".replace(
        " usd", " USD"
    )


def _shown(amount: int, ledger_unit: str) -> str:
    if ledger_unit == "pusd":
        return format_usd(amount)
    per = UNITS[_NAMES[ledger_unit]].per
    return f"{amount:,}" if per == 1 else f"{Decimal(amount) / per:,f}"
