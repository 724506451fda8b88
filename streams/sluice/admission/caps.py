"""Conditions under which a request may go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Caps:
    """What the gateway must hold a request to; None and empty = no such condition."""

    max_tokens: int | None = None
    fallback_models: tuple[str, ...] = ()
    queue_timeout_ms: int | None = None
    queue_depth: int | None = None
    priority: str | None = None
    pool: str | None = None
    tool_denylist: frozenset[str] = frozenset()
    max_steps_remaining: int | None = None
    verify: bool = False
    boundary: str | None = None


NO_CAPS = Caps()


def caps_of(params: Mapping[str, Any]) -> Caps:
    """The conditions in the `params` of a Decision record."""
    caps = Caps(
        max_tokens=params["max_tokens"],
        fallback_models=tuple(params["fallback_models"]),
        queue_timeout_ms=params["queue_timeout_ms"],
        queue_depth=params["queue_depth"],
        priority=params["priority"],
        pool=params["pool"],
        tool_denylist=frozenset(params["tool_denylist"]),
        max_steps_remaining=params["max_steps_remaining"],
        verify=bool(params["verify"]),
        boundary=params["boundary"],
    )
    return NO_CAPS if caps == NO_CAPS else caps


def merged(several: Sequence[Caps]) -> Caps:
    """All conditions at once, strictest decision first.

    Numbers take the smallest, denied tools add up; where only one can hold (models, pool,
    priority, boundary) the strictest decision's word counts.
    """
    if len(several) < 2:
        return several[0] if several else NO_CAPS
    return Caps(
        max_tokens=_smallest(c.max_tokens for c in several),
        fallback_models=next((c.fallback_models for c in several if c.fallback_models), ()),
        queue_timeout_ms=_smallest(c.queue_timeout_ms for c in several),
        queue_depth=_smallest(c.queue_depth for c in several),
        priority=_first(c.priority for c in several),
        pool=_first(c.pool for c in several),
        tool_denylist=frozenset().union(*(c.tool_denylist for c in several)),
        max_steps_remaining=_smallest(c.max_steps_remaining for c in several),
        verify=any(c.verify for c in several),
        boundary=_first(c.boundary for c in several),
    )


def _smallest(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value is not None), None)
