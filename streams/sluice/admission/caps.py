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
MAX_COMBINATIONS = 10_000


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
    # Decisions that say the same share their caps, so few combinations come up; what stands
    # beside the result keeps the ids its own.
    key = tuple(map(id, several))
    known = _merged.get(key)
    if known is None:
        if len(_merged) >= MAX_COMBINATIONS:
            _merged.clear()
        known = _merged[key] = (_together(several), several)
    return known[0]


_merged: dict[tuple[int, ...], tuple[Caps, Sequence[Caps]]] = {}


def _together(some: Sequence[Caps]) -> Caps:
    return Caps(
        max_tokens=_smallest(c.max_tokens for c in some),
        fallback_models=next((c.fallback_models for c in some if c.fallback_models), ()),
        queue_timeout_ms=_smallest(c.queue_timeout_ms for c in some),
        queue_depth=_smallest(c.queue_depth for c in some),
        priority=_first(c.priority for c in some),
        pool=_first(c.pool for c in some),
        tool_denylist=frozenset().union(*(c.tool_denylist for c in some)),
        max_steps_remaining=_smallest(c.max_steps_remaining for c in some),
        verify=any(c.verify for c in some),
        boundary=_first(c.boundary for c in some),
    )


def _smallest(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value is not None), None)
