"""How much of a budget one usage event takes, and which of a budget's ledgers it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sluice.enforcement.policy_budget import Budget
from sluice.metering.quantities import REQUEST_TYPES, ran
from sluice.wire.scopes import scope_text

TOOL_TYPES = frozenset({"tool"})

Event = Mapping[str, Any]


def amount(unit: str, event: Event, cost_pusd: int | None) -> int:
    """What an event adds to a ledger, in the ledger's unit.

    Corrections add their signed deltas. What was not measured, or has no price, adds nothing.
    Calls that never reached a provider are no requests, tool calls or steps, nor are corrections.
    Concurrency is reserved only; it is never settled.
    """
    if unit == "pusd":
        return cost_pusd or 0
    return 0 if unit == "concurrency" else _AMOUNTS[unit](event)


def _is_again(event: Event) -> bool:
    return event["attempt"] > 1 or event["attempt_kind"] is not None


_AMOUNTS: dict[str, Callable[[Event], int]] = {
    "tokens": lambda e: int(e["input_tokens"] + e["output_tokens"]),
    "input_tokens": lambda e: int(e["input_tokens"]),
    "output_tokens": lambda e: int(e["output_tokens"]),
    "gpu_us": lambda e: int(e["gpu_us"] or 0),
    "kv_byte_ms": lambda e: int(e["kv_byte_ms"] or 0),
    "requests": lambda e: int(ran(e)),
    "tool_calls": lambda e: int(ran(e, TOOL_TYPES)),
    # As TaskRow.steps: further attempts are not steps of their own.
    "steps": lambda e: int(ran(e, REQUEST_TYPES) and not _is_again(e)),
}


def column_of(field: str) -> str:
    """The UsageEvent field behind a field of a scope: the model is the one that was asked for.

    An admission point knows no other before the call, and both must find the same ledger.
    """
    return "request_model" if field == "model" else field


def scope_of(budget: Budget, event: Event) -> str | None:
    """The ledger of an event as BudgetRow.scope; None where it does not count in this budget.

    An event without a value for a field of the scope belongs to no ledger.
    """
    for field, wanted in budget.where.items():
        if event[column_of(field)] != wanted:
            return None
    values = tuple([event[column_of(field)] for field in budget.scope])
    return scope_text_of(budget.scope, values) if all(values) else None


@lru_cache(maxsize=65_536)
def scope_text_of(fields: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The scope of these fields and values; asked for at every event, of few scopes."""
    return scope_text(zip(fields, values, strict=True))
