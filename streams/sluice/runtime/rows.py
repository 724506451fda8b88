"""Budget ledgers as the rows that analysts and admission points read."""

from __future__ import annotations

from typing import Any

from sluice.enforcement.budgets import Ledger, LedgerKey
from sluice.enforcement.policy import Budget


def budget_record(
    key: LedgerKey, ledger: Ledger, budget: Budget | None, time: int
) -> dict[str, Any]:
    """A BudgetRow as it goes on the wire; money in pico-USD, instants in µs."""
    return {
        "tenant_id": key.tenant_id,
        "policy_id": key.policy_id,
        "budget_id": key.budget_id,
        "scope": f"tenant_id={key.tenant_id}",
        "period": key.period_id,
        "period_start": ledger.period_start,
        "period_end": ledger.period_end,
        "shard": 0,
        "limit_pusd": ledger.limit_pusd,
        "settled_pusd": ledger.settled_pusd,
        "reserved_pusd": 0,
        "presumed_pusd": 0,
        "corrected_pusd": ledger.corrected_pusd,
        "remaining_pusd": ledger.limit_pusd - ledger.settled_pusd,
        "events": ledger.events,
        "unpriced": ledger.unpriced,
        "state": ladder_state(ledger, budget),
        "decision_id": ledger.decision_id,
        "watermark": time,
    }


def ladder_state(ledger: Ledger, budget: Budget | None) -> str:
    """The action of the rung that the ledger stands on, or "ok"."""
    if budget is None or not 0 < ledger.rung <= len(budget.rules):
        return "ok"
    return budget.rules[ledger.rung - 1].action
