"""Requests and usage as amounts in the units of budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sluice.wire.outcomes import NEVER_RAN

if TYPE_CHECKING:
    from sluice.admission.verdict import AdmissionRequest

# Held only while a request runs; nothing of it is ever spent.
CONCURRENCY = "concurrency"
_OF_MODELS = frozenset({"tokens", "input_tokens", "output_tokens", "requests", "steps"})
_COUNTED = frozenset({"requests", "tool_calls", "steps"})


def applies(unit: str, request: AdmissionRequest) -> bool:
    """Whether a request of this kind has any amount of the unit at all."""
    if unit == "tool_calls":
        return request.tool_name is not None
    if unit == "steps" and request.attempt > 1:
        # Further attempts are not steps of their own.
        return False
    return unit not in _OF_MODELS or request.tool_name is None


def estimated(unit: str, request: AdmissionRequest) -> int | None:
    """What a request will take at most, in the unit; None where nobody can tell.

    A tool call without an estimate is taken to cost nothing before it ran.
    """
    given = request.estimates.get(unit)
    if given is not None:
        return given
    if unit in _COUNTED or unit == CONCURRENCY:
        return 1
    if unit == "pusd":
        unpriced = None if request.tool_name is None else 0
        return unpriced if request.estimated_cost_pusd is None else request.estimated_cost_pusd
    if unit == "input_tokens":
        return request.input_tokens
    if unit == "output_tokens":
        return request.max_output_tokens
    if unit == "tokens":
        return _sum(request.input_tokens, request.max_output_tokens)
    return None


def used(unit: str, usage: Mapping[str, Any]) -> int | None:
    """What fields of a UsageEvent come to in the unit; None where they do not tell.

    Tokens that are not given are none, as the event's reader will see it.
    """
    ran = usage.get("outcome") not in NEVER_RAN
    if unit in _COUNTED:
        return int(ran)
    if unit == CONCURRENCY:
        return 0
    if unit == "tokens":
        return int(usage.get("input_tokens", 0) + usage.get("output_tokens", 0))
    if unit in ("input_tokens", "output_tokens"):
        return int(usage.get(unit, 0))
    amount = usage.get("cost_pusd" if unit == "pusd" else unit)
    return (None if ran else 0) if amount is None else int(amount)


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second
