"""What one usage event cost: disjoint classes times the rates in force.

An assumption (a rate that stands in for a missing one, a tier or unit that the book lacks) is named
in the result; an event whose input or output has no rate at all is unpriced, never free. Every cost
has parts, one per class that was used, and they add up to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.metering.listed import listed
from sluice.metering.parts import Cost, Part, free_parts, merged, spread, unclassified
from sluice.metering.prices import PriceBook
from sluice.metering.quantities import counted_classes, token_classes
from sluice.money import INT64_MAX, checked_sum

__all__ = ["Cost", "Part", "cost", "token_classes", "unpriced_parts"]

_SOURCES = frozenset({"provider", "contract", "estimate", "manual"})


def cost(book: PriceBook | None, event: Mapping[str, Any]) -> Cost | None:
    """Cost of a UsageEvent, or None where the book has no price for it.

    What the provider billed wins over the book. The price is that of `occurred_at`, the model
    `response_model`, else `request_model`; for the order of look-ups see PriceBook.find. Admission
    records cost nothing, GPU records what the book asks for GPU time and KV cache. A correction
    costs what it states, else its deltas and no request fee.

    Raises OverflowError where the cost or a part of it leaves 64 bits.
    """
    event_type = event["event_type"]
    if event_type == "admission":
        return Cost(0, "estimate", _version(book))
    billed = event.get("cost_pusd")
    if billed is not None and event_type == "correction":
        return _stated(event, billed)
    if billed is not None and event.get("cost_source") == "provider":
        return _billed(book, event, billed)
    rated = listed(book, event)
    if rated is None or (event_type != "correction" and -INT64_MAX <= rated[0] <= INT64_MAX):
        return rated  # parts of one sign are no larger than their sum
    return _checked(rated)


def unpriced_parts(event: Mapping[str, Any]) -> tuple[Part, ...]:
    """What an event without a price used: tokens, units and server tools, at no cost."""
    return free_parts(counted_classes(event)[0])


def _stated(event: Mapping[str, Any], delta: int) -> Cost:
    """A correction that says what it costs; what its classes leave open counts no quantity."""
    known = merged(Part(**record) for record in event.get("usage_by_class") or ())
    rest = delta - sum(part.cost_pusd for part in known)
    parts = merged((*(known or unpriced_parts(event)), *unclassified(0, rest)))
    said = event.get("cost_source")
    source = said if said in _SOURCES else "estimate"
    return _checked(Cost(delta, source, event.get("price_book_version"), (), parts))


def _billed(book: PriceBook | None, event: Mapping[str, Any], billed: int) -> Cost:
    """The provider's amount over the classes in proportion to list prices.

    Without list prices it is one unclassified part beside the quantities, and counts as one bill.
    """
    at_list = listed(book, event, at_list=True)
    parts = spread(at_list.parts, billed) if at_list else None
    if parts is None:
        quantities = at_list.parts if at_list else unpriced_parts(event)
        parts = (*quantities, *unclassified(1, billed))
    return Cost(checked_sum(billed, 0), "provider", _version(book), (), parts)


def _checked(rated: Cost) -> Cost:
    checked_sum(rated.cost_pusd, 0)
    for part in rated.parts:
        checked_sum(part.cost_pusd, 0)
    return rated


def _version(book: PriceBook | None) -> str | None:
    return None if book is None else book.version
