"""Budget ledgers as the rows that analysts and admission points read."""

from __future__ import annotations

from typing import Any, NamedTuple

from sluice.enforcement import burn
from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.policy import Budget
from sluice.money import clamped

# Below this a rate would say more about the first requests than about the rest of the period.
_LEAST_SEEN_US = 300_000_000


class Held(NamedTuple):
    """What holders have of a ledger beyond what is settled, in its unit."""

    reserved: int = 0
    presumed: int = 0


NOTHING_HELD = Held()


def budget_record(
    key: LedgerKey, ledger: Ledger, budget: Budget | None, time: int, held: Held = NOTHING_HELD
) -> dict[str, Any]:
    """A BudgetRow as it goes on the wire; instants in µs."""
    spent = burn.spent(ledger.burn, ledger.burn_minute, burn.minute_of(time))
    remaining = clamped(ledger.limit - ledger.settled - held.reserved - held.presumed)
    forecast, exhausted_at = _forecast(
        ledger, spent["1h"], remaining, time, has_calendar=key.period_id not in ("rolling", "task")
    )
    amounts = {
        "limit": ledger.limit, "settled": ledger.settled, "reserved": clamped(held.reserved),
        "presumed": clamped(held.presumed), "corrected": ledger.corrected, "remaining": remaining,
    }  # fmt: skip
    money = ledger.unit == "pusd"
    return {
        "tenant_id": ledger.tenant_id,
        "policy_id": key.policy_id,
        "budget_id": key.budget_id,
        "scope": key.scope,
        "period": key.period_id,
        "period_start": ledger.period_start,
        "period_end": ledger.period_end,
        "shard": 0,
        **{f"{name}_pusd": value if money else 0 for name, value in amounts.items()},
        "unit": ledger.unit,
        **amounts,
        "events": ledger.events,
        "unpriced": ledger.unpriced,
        "burn": burn.records(spent) if ledger.burn else [],
        "forecast_pusd": forecast if money else None,
        "forecast": forecast,
        "exhausted_at": exhausted_at,
        "state": ladder_state(ledger, budget),
        "decision_id": ledger.decision_id,
        "watermark": time,
    }


def _forecast(
    ledger: Ledger, last_hour: int, remaining: int, time: int, *, has_calendar: bool
) -> tuple[int | None, int | None]:
    """Usage by the end of the period, and when the limit is reached, if the last hour goes on."""
    seen = min(time - ledger.opened_at, burn.hour_us(time))
    left = ledger.period_end - time
    if seen < _LEAST_SEEN_US or left <= 0 or not has_calendar:
        return None, None
    forecast = clamped(ledger.settled + last_hour * left // seen)
    if remaining <= 0:
        return forecast, time
    in_us = -(-remaining * seen // last_hour) if last_hour > 0 else left
    return forecast, time + in_us if in_us < left else None


def ladder_state(ledger: Ledger, budget: Budget | None) -> str:
    """The action of the rung that the ledger stands on, or "ok"."""
    if budget is None or not 0 < ledger.rung <= len(budget.rules):
        return "ok"
    return budget.rules[ledger.rung - 1].action
