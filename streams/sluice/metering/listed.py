"""What usage costs by a price book: the rates of the model and of the tool, under contract.

Requests that have nothing special take a short way (`_plain`) to the same parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from sluice.metering.classes import (
    CLASSES,
    MEASURED_CLASSES,
    SERVER_TOOL_CLASSES,
    TOKEN_CLASSES,
    UNIT_CLASSES,
)
from sluice.metering.parts import Cost, Part, divided, in_order, ordered
from sluice.metering.prices import PriceBook, PriceEntry, ToolPrice, names_of
from sluice.metering.quantities import REQUEST_TYPES, counted_classes, measured_classes, ran
from sluice.metering.rates import STANDARD, PlainRates, RateCard
from sluice.money import INT64_MAX

# event field `service_tier` (lower case) -> service tier of the book
_SERVICE_TIERS = {
    "": STANDARD, "default": STANDARD, "standard": STANDARD, "auto": STANDARD,
    "on_demand": STANDARD, "on_demand_priority": "priority", "on_demand_flex": "flex",
    "batches": "batch",
}  # fmt: skip
_PLAIN_TIERS = frozenset({None, "", "default", "standard"})
_TOOL = frozenset({"tool"})
_CALLED = frozenset({"tool", "gpu_adjustment"})
_TOKENS = frozenset(TOKEN_CLASSES)
_BY_UNIT = frozenset({*UNIT_CLASSES, *SERVER_TOOL_CLASSES})
# Counted only where there is a rate: an event has fields of its own for them.
_ONLY_RATED = frozenset({"request", "tool_call", *MEASURED_CLASSES})
_WHOLE = (1, 1)
_PER = {name: rate_class.per for name, rate_class in CLASSES.items()}
_PUSD = attrgetter("cost_pusd")
# Part(...) and Cost(...) take twice as long, and the short way runs for nearly every event.
_new = tuple.__new__


class _Terms(NamedTuple):
    """What a rate is multiplied with, and who says so."""

    ratio: tuple[int, int]
    source: str


_LIST = _Terms(_WHOLE, "estimate")
_OWN = _Terms(_WHOLE, "contract")
_NO_RATES = RateCard({}, {})


class Tariff(NamedTuple):
    """What the tokens of a request cost: the model's entry, its rates, and the contract's ratio."""

    entry: PriceEntry
    card: RateCard
    ratio: tuple[int, int]
    source: str


class _Bill(NamedTuple):
    """Quantities under one list of rates."""

    counts: Mapping[str, int]
    card: RateCard
    terms: _Terms
    free_tokens: bool = False


def listed(
    book: PriceBook | None, event: Mapping[str, Any], *, at_list: bool = False
) -> Cost | None:
    """Cost from the book, at list prices only or under the tenant's contract."""
    if event["event_type"] in _CALLED:
        return _called(book, event, at_list=at_list)
    entry = None if book is None else _entry_of(book, event)
    if book is None or entry is None:
        return None
    terms = _LIST
    if book.contracts or entry.tenant_id is not None:
        terms = _terms(book, event, entry, at_list=at_list)
    own_provider = entry.provider is None or entry.provider == event["provider_name"]
    if entry.plain is not None and own_provider and terms.ratio == _WHOLE:
        parts = _plain(entry.plain, entry.lowest_threshold, event)
        if parts is not None:
            total = 0
            for _, _, amount in parts:
                total += amount
            return _new(Cost, (total, terms.source, book.version, (), parts))
    return _asked(book, event, entry, terms)


def tariff_of(book: PriceBook, event: Mapping[str, Any]) -> Tariff | None:
    """The tariff of an inference or embedding, or None where the book has none for its model."""
    entry = _entry_of(book, event)
    if entry is None:
        return None
    _, card = _card_of(entry, event)
    return Tariff(entry, card, *_terms(book, event, entry, at_list=False))


def _entry_of(book: PriceBook, event: Mapping[str, Any]) -> PriceEntry | None:
    model = event.get("response_model") or event["request_model"]
    return book.find(model, event["provider_name"], event["occurred_at"], event["tenant_id"])


def _terms(
    book: PriceBook, event: Mapping[str, Any], price: PriceEntry | ToolPrice, *, at_list: bool
) -> _Terms:
    """A tenant's own price is final; list prices are multiplied under a contract."""
    if price.tenant_id is not None:
        return _OWN
    if at_list:
        return _LIST
    models = [event.get("response_model") or event["request_model"]]
    if isinstance(price, PriceEntry) and price.model != models[0]:
        models.append(price.model)
    contract = book.contract(
        event["tenant_id"], event["provider_name"], models, event["occurred_at"]
    )
    return _LIST if contract is None else _Terms(contract.ratio, "contract")


def _plain(
    rates: PlainRates, lowest_threshold: int, event: Mapping[str, Any]
) -> tuple[Part, ...] | None:
    """Parts where the entry states every rate needed and nothing special applies, else None."""
    total_input = event["input_tokens"]
    if (
        total_input > lowest_threshold
        or event.get("service_tier") not in _PLAIN_TIERS
        or event["event_type"] not in REQUEST_TYPES
        or event.get("cache_write_by_ttl")
        or event.get("tokens_by_modality")
        or event.get("units")
        or event.get("server_tool_requests")
    ):
        return None
    input_rate, read_rate, write_rate, output_rate, reasoning_rate = rates
    read, written = event["cache_read_input_tokens"], event["cache_write_input_tokens"]
    reasoning = event["reasoning_output_tokens"]
    if (read and read_rate is None) or (written and write_rate is None):
        return None
    fresh, output = total_input - read - written, event["output_tokens"] - reasoning
    parts: tuple[Part, ...] = (_new(Part, ("input", fresh, fresh * input_rate)),) if fresh else ()
    if read:
        parts += (_new(Part, ("cache_read", read, read * read_rate)),)
    if written:
        parts += (_new(Part, ("cache_write", written, written * write_rate)),)
    if output:
        parts += (_new(Part, ("output", output, output * output_rate)),)
    if reasoning:
        parts += (_new(Part, ("reasoning", reasoning, reasoning * reasoning_rate)),)
    return parts


def _asked(
    book: PriceBook, event: Mapping[str, Any], entry: PriceEntry, terms: _Terms
) -> Cost | None:
    """Inference, embeddings and their corrections, by the rates of the model."""
    counts, found = counted_classes(event)
    counts |= measured_classes(event)
    counts["request"] = int(ran(event))
    service_tier, card = _card_of(entry, event)
    if ran(event) and _lacks_its_unit(entry, card, counts):
        return None
    assumptions = [*_assumed_for(entry, service_tier, event), *found]
    bill = _Bill(counts, card, terms, entry.free_tokens)
    return _total(book.version, [bill], assumptions)


def _called(book: PriceBook | None, event: Mapping[str, Any], *, at_list: bool) -> Cost | None:
    """Tool calls and GPU records: the tool's price where it has one, the model's for the rest.

    A book that lists tools knows what they cost: a tool that it lacks is unpriced. Without such a
    list a call costs 0, and the result says so.
    """
    is_call = event["event_type"] == "tool"
    counts, found = counted_classes(event) if is_call else ({}, ())
    counts |= measured_classes(event)
    counts["tool_call"] = int(ran(event, _TOOL)) if is_call else 0
    tool = None if book is None else _tool_of(book, event)
    if is_call and tool is None:
        if book is not None and book.tools:
            return None
        found = (*found, "tool call not priced")
    bills: list[_Bill] = []
    if book is not None and tool is not None:
        own = {name: count for name, count in counts.items() if name in tool.card.rates_pusd}
        bills = [_Bill(own, tool.card, _terms(book, event, tool, at_list=at_list))]
        counts = {name: count for name, count in counts.items() if name not in own}
    bill, assumed = _of_model(book, event, counts, at_list=at_list)
    return _total(None if book is None else book.version, [*bills, bill], (*assumed, *found))


def _of_model(
    book: PriceBook | None, event: Mapping[str, Any], counts: Mapping[str, int], *, at_list: bool
) -> tuple[_Bill, tuple[str, ...]]:
    """What the model named in a tool call or GPU record costs, and what had to be assumed."""
    entry = None if book is None else _entry_of(book, event)
    if book is None or entry is None:
        return _Bill(counts, _NO_RATES, _LIST), ()
    service_tier, card = _card_of(entry, event)
    used = {name for name, count in counts.items() if count}
    if used.isdisjoint(card.rates_pusd) or _lacks_its_unit(entry, card, counts):
        return _Bill(counts, _NO_RATES, _LIST), ()
    assumed = () if used.isdisjoint(_TOKENS) else tuple(_assumed_for(entry, service_tier, event))
    terms = _terms(book, event, entry, at_list=at_list)
    return _Bill(counts, card, terms, entry.free_tokens), assumed


def _tool_of(book: PriceBook, event: Mapping[str, Any]) -> ToolPrice | None:
    name, server = event.get("tool_name"), event.get("tool_server")
    if event["event_type"] != "tool" and not name:
        return None
    return book.tool(name or "", server, event["occurred_at"], event["tenant_id"])


def _card_of(entry: PriceEntry, event: Mapping[str, Any]) -> tuple[str, RateCard]:
    asked = (event.get("service_tier") or "").lower()
    service_tier = _SERVICE_TIERS.get(asked, asked)
    return service_tier, entry.card(service_tier, event["input_tokens"])


def _lacks_its_unit(entry: PriceEntry, card: RateCard, counts: Mapping[str, int]) -> bool:
    """Whether a model is billed by units of which the event states none: it is not free then."""
    return entry.by_unit and not any(
        count and name in card.rates_pusd and name in _BY_UNIT for name, count in counts.items()
    )


def _total(version: str | None, bills: Sequence[_Bill], assumptions: Iterable[str]) -> Cost | None:
    said = list(assumptions)
    parts: list[Part] = []
    for bill in bills:
        billed = _parts_of(bill, said)
        if billed is None:
            return None
        parts = ordered([*parts, *billed]) if parts else billed
    at_contract = any(bill.terms.source == "contract" for bill in bills)
    source = "contract" if at_contract else "estimate"
    return Cost(sum(map(_PUSD, parts)), source, version, tuple(said), tuple(parts))


def _parts_of(bill: _Bill, assumptions: list[str]) -> list[Part] | None:
    """Parts of a bill; None where tokens have no rate. Adds to what was assumed."""
    parts = []
    numerator, denominator = bill.terms.ratio
    for name, count in in_order(bill.counts):
        rate = bill.card.rates_pusd.get(name)
        if rate is None:
            if name in _ONLY_RATED:
                continue
            if name in _TOKENS and not bill.free_tokens:
                return None
            if name not in _TOKENS:
                assumptions.append(f"{name} not priced")
            parts.append(Part(name, count, 0))
            continue
        # One division for unit and contract together, so that a part is rounded once.
        amount, per = count * rate * numerator, _PER[name] * denominator
        if per != 1:
            amount = divided(amount, per)
        parts.append(Part(name, count, amount))
        if name in bill.card.assumed:
            assumptions.append(bill.card.assumed[name])
    return parts


def _assumed_for(entry: PriceEntry, service_tier: str, event: Mapping[str, Any]) -> Iterable[str]:
    provider = event["provider_name"]
    if entry.provider is not None and provider not in names_of(entry.provider):
        yield f"the price of {entry.provider} for provider {provider!r}"
    if not entry.has_service_tier(service_tier):
        yield f"the standard price for service tier {service_tier!r}"
    if event["event_type"] == "correction" and entry.lowest_threshold < INT64_MAX:
        yield "the context length of a correction by its own deltas"
