"""HolderReports as they come: what they must be like, and which period they are about."""

from __future__ import annotations

from typing import Any

from sluice.enforcement import budgets
from sluice.enforcement.budgets import Ledger
from sluice.enforcement.leases import Report
from sluice.enforcement.policy import Budget
from sluice.enforcement.policy_budget import MAX_LIMIT
from sluice.errors import WireError
from sluice.periods import Period
from sluice.runtime.outputs import Record
from sluice.wire.scopes import scope_fields, scope_text

# A holder's clock may be ahead of the broker's when a period begins.
AHEAD_US = 5_000_000
_AMOUNTS = ("wants", "in_flight_reserved", "interim_spend", "last_seq", "committed",
            "per_request")  # fmt: skip


def check_report(record: Record, fields: dict[str, Any], *, of_tenants: bool) -> None:
    """Raise WireError where a HolderReport breaks its contract.

    `of_tenants`: whether reports are about budgets of tenants here, and go by their keys.
    """
    if not of_tenants:
        if fields["tenant_id"]:
            raise WireError("wrong_topic", "a report on a tenant's budgets goes to usage")
    elif record.key != fields["tenant_id"].encode() or not fields["tenant_id"]:
        raise WireError("wrong_key", "the key of a report is its tenant_id")
    for name in _AMOUNTS:
        if not 0 <= (fields[name] or 0) <= MAX_LIMIT:
            raise WireError("bad_report", f"{name} {fields[name]} is not in 0..{MAX_LIMIT}")
    _check_holder(fields)


def _check_holder(fields: dict[str, Any]) -> None:
    if not fields["holder"] or not fields["source_epoch"]:
        raise WireError("bad_report", "a report names holder and source_epoch")


def check_question(record: Record, fields: dict[str, Any]) -> None:
    """Raise WireError unless a HolderReport asks what an ended process used across tenants."""
    if record.key:
        raise WireError("wrong_key", "a report that spans tenants has no key on a usage topic")
    if not fields["closing"]:
        raise WireError("bad_report", "of those that span tenants, only closing ones belong here")
    if len(fields["budget_ids"]) != 1 or not fields["policy_id"]:
        raise WireError("bad_report", "a report that spans tenants names one budget of one policy")
    _check_holder(fields)


def read_report(fields: dict[str, Any]) -> Report:
    """What a report says of one lease; open streams have spent at least what they tell."""
    return Report(
        slot=fields["holder_slot"],
        wants=fields["wants"],
        in_flight=max(fields["in_flight_reserved"], fields["interim_spend"]),
        last_seq=fields["last_seq"],
        closing=fields["closing"],
        committed=fields["committed"],
        per_request=fields["per_request"] or 0,
    )


def named_period(
    budget: Budget, scope: str, fields: dict[str, Any], known: Ledger | None, time: int
) -> Period | None:
    """The period that a report names at broker time `time` (µs).

    None where there is none such by the budget's calendar, or the scope is not one of the budget's
    and of the tenant; a budget that spans tenants has none. `known` is the ledger of that name, if
    there is one.
    """
    named = scope_fields(scope)
    if named.keys() != set(budget.scope) or scope_text(named.items()) != scope:
        return None
    if {**budget.where, **named}.get("tenant_id", "") != fields["tenant_id"]:
        return None
    name = fields["period"]
    if known is not None:
        is_of_calendar = budgets.charged_period(budget, known.period_start).period_id == name
        found = Period(budget.period, name, known.period_start, known.period_end)
        return found if is_of_calendar else None
    near = [budgets.charged_period(budget, at) for at in (time, time + AHEAD_US)]
    return next((period for period in near if period.period_id == name), None)
