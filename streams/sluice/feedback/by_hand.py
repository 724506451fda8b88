"""A correction of one event that a person asks for: other tokens, another cost, or void.

What is asked for is what shall hold; the signed deltas follow from where the event stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sluice.errors import ConfigError
from sluice.feedback.rerate import classes_of, correction_fault, rate
from sluice.feedback.standing import (
    BY_HAND,
    TOKEN_FIELDS,
    UNCLASSIFIED,
    Change,
    Row,
    Standing,
    correction,
)
from sluice.metering.prices import PriceBook
from sluice.metering.quantities import CLASS_LISTS
from sluice.money import format_usd

MAX_REASON_BYTES = 256


class Wanted(NamedTuple):
    """What shall hold: token counts by field, or a cost, or nothing at all (`void`)."""

    reason: str
    tokens: Mapping[str, int] = {}
    cost_pusd: int | None = None
    void: bool = False


def check_wanted(wanted: Wanted) -> None:
    """Raise ConfigError where the request does not say one thing, and why."""
    asked = (bool(wanted.tokens), wanted.cost_pusd is not None, wanted.void)
    if sum(asked) != 1:
        raise ConfigError("say one of: token counts, --cost, --void")
    if not 0 < len(wanted.reason.encode()) <= MAX_REASON_BYTES:
        raise ConfigError(f"--reason has 1 to {MAX_REASON_BYTES} bytes; it is kept with the event")


def correct(stands: Standing, wanted: Wanted, book: PriceBook | None, now: int) -> dict[str, Any]:
    """The correction; token counts are priced by `book`, the one that the event was priced by.

    Raises ConfigError where nothing would change, the counts contradict each other, or the event
    is too old.
    """
    check_wanted(wanted)
    made = correction(stands, _change(stands, wanted, book))
    if not _says_something(made):
        raise ConfigError(
            f"{stands.original['event_id']} stands at that already: "
            f"{format_usd(stands.net_pusd or 0, 12)} USD; nothing to correct"
        )
    if (fault := correction_fault(made, now)) is not None:
        raise ConfigError(f"the meter would refuse this correction: {fault}")
    return made


def _change(stands: Standing, wanted: Wanted, book: PriceBook | None) -> Change:
    version = None if book is None else book.version
    if wanted.void:
        event = {**stands.event, **dict.fromkeys(TOKEN_FIELDS, 0)}
        event |= {name: [] for name in CLASS_LISTS}
        return Change(0, {}, version, BY_HAND, wanted.reason, event)
    if wanted.cost_pusd is not None:
        rest = wanted.cost_pusd - sum(cost for _, cost in stands.classes.values())
        quantity, cost = stands.classes.get(UNCLASSIFIED, (0, 0))
        classes = stands.classes | {UNCLASSIFIED: (quantity, cost + rest)}
        return Change(wanted.cost_pusd, classes, version, BY_HAND, wanted.reason)
    event = {**stands.event, **wanted.tokens}
    _check_tokens(event)
    if stands.by_hand:
        # The cost was set, not derived: other tokens do not move it.
        return Change(stands.net_pusd, stands.classes, version, "estimate", wanted.reason, event)
    rated = rate(book, event)
    if rated is None:
        return Change(stands.net_pusd, stands.classes, version, "estimate", wanted.reason, event)
    return Change(rated.cost_pusd, classes_of(rated), version, "estimate", wanted.reason, event)


def _check_tokens(event: Row) -> None:
    cached = event["cache_read_input_tokens"] + event["cache_write_input_tokens"]
    for part, whole, what in (
        (cached, event["input_tokens"], "cached tokens above input tokens"),
        (event["reasoning_output_tokens"], event["output_tokens"], "reasoning above output tokens"),
    ):
        if part > whole:
            raise ConfigError(f"{what}: {part} > {whole}; correct both counts together")
    if negative := [name for name in TOKEN_FIELDS if event[name] < 0]:
        raise ConfigError(f"{', '.join(negative)}: below zero")


def _says_something(made: Mapping[str, Any]) -> bool:
    if made["cost_pusd"] or any(made[name] for name in (*TOKEN_FIELDS, *CLASS_LISTS)):
        return True
    return made["cost_pusd"] is not None and made["original_cost_pusd"] is None
