"""What a verdict makes of a request: another model or pool, fewer tokens, another priority."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sluice.admission.caps import NO_CAPS
from sluice.admission.verdict import AdmissionRequest, Verdict


class Plan(NamedTuple):
    """The request as it is to run; `degraded_from`: the model that was asked for, if another."""

    request: AdmissionRequest
    degraded_from: str | None = None


def planned(
    request: AdmissionRequest, verdict: Verdict, serves: Callable[[AdmissionRequest], bool]
) -> Plan | None:
    """Carry the verdict's conditions out on a request; None where no fallback model may serve it.

    `serves` says whether a request may run as it stands. Where a decision names fallback models,
    the first that may is taken, unless the request asks for one of them already.
    """
    caps = verdict.caps
    if caps is NO_CAPS:
        return Plan(request)
    changed = replace(
        request,
        max_output_tokens=_least(request.max_output_tokens, caps.max_tokens),
        pool=caps.pool or request.pool,
        priority=caps.priority or request.priority,
    )
    models = caps.fallback_models
    if not models or request.model is None or request.model in models:
        return Plan(changed if changed != request else request)
    for model in models:
        candidate = replace(changed, model=model)
        if serves(candidate):
            return Plan(candidate, request.model)
    return None


def _least(asked: int | None, cap: int | None) -> int | None:
    return min((tokens for tokens in (asked, cap) if tokens is not None), default=None)
