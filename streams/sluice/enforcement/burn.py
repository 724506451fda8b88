"""Spend of the last minutes and hours, in rings of whole slots; integers only.

A look-back window is the slot that runs and the whole slots before it that cover its length, so it
is never shorter than its name and at most one slot longer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sluice.money import INT64_MAX, clamped

_MINUTE_US = 60_000_000


class _Window(NamedTuple):
    name: str
    slot_minutes: int
    slots: int  # the running one included
    begin: int  # where its slots begin in the list


_WINDOWS = (_Window("5m", 1, 6, 0), _Window("1h", 10, 7, 6), _Window("6h", 60, 7, 13))
_BEGINS = tuple(window.begin for window in _WINDOWS)
SLOTS = 20


def minute_of(time: int) -> int:
    """The minute that holds an instant (µs UTC); spend within one minute may be added at once."""
    return time // _MINUTE_US


def add(rings: list[int], minute: int, now: int, amount: int) -> int:
    """Add what was spent in minute `now` to rings that stand at `minute`; where they stand then."""
    now = max(now, minute)
    if not rings:
        rings.extend([0] * SLOTS)
    elif now != minute:
        advance(rings, minute, now)
    for begin in _BEGINS:
        total = rings[begin] + amount
        rings[begin] = total if -INT64_MAX <= total <= INT64_MAX else clamped(total)
    return now


def advance(rings: list[int], minute: int, now: int) -> None:
    """Let the slots that are over move back, and the oldest fall out."""
    for _, length, slots, begin in _WINDOWS:
        steps = min(now // length - minute // length, slots)
        if steps > 0:
            kept = rings[begin : begin + slots - steps]
            rings[begin : begin + slots] = [0] * steps + kept


def spent(rings: list[int], minute: int, now: int) -> dict[str, int]:
    """Spend by look-back window at minute `now`."""
    seen = list(rings) or [0] * SLOTS
    if rings and now > minute:
        advance(seen, minute, now)
    return {w.name: clamped(sum(seen[w.begin : w.begin + w.slots])) for w in _WINDOWS}


def hour_us(time: int) -> int:
    """How long the window "1h" is at an instant, µs."""
    return 60 * _MINUTE_US + time % (10 * _MINUTE_US)


def records(burn: dict[str, int]) -> list[dict[str, Any]]:
    """Spend by look-back window as BudgetRow.burn."""
    return [{"key": name, "value": value} for name, value in burn.items()]
