"""What one model or tool costs: rates per class, by service tier and context length.

A rate is an integer of pico-USD for as much of a class as `classes.CLASSES` says. One pico-USD per
token is one millionth of a US dollar per million tokens: 2.50 USD per million tokens is 2_500_000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from sluice.metering.classes import (
    MEASURED_CLASSES,
    RATE_CLASSES,
    SERVER_TOOL_CLASSES,
    STAND_IN,
    TOKEN_CLASSES,
    UNIT_CLASSES,
)
from sluice.money import INT64_MAX

__all__ = [
    "RATE_CLASSES", "STANDARD", "STAND_IN", "PlainRates", "PriceEntry", "RateCard", "Tier",
    "ToolPrice", "holds_at", "start_of",
]  # fmt: skip

STANDARD = ""  # the service tier of requests that ask for none

# Not taken from another tier with an assumption: a fee is the same in every tier.
_SAME_IN_ALL_TIERS = frozenset({"request", *MEASURED_CLASSES, *SERVER_TOOL_CLASSES})


class Interval(Protocol):
    """Something that holds from one instant until another (µs UTC), the end excluded."""

    @property
    def effective_from(self) -> int | None:
        """First instant; None = always."""

    @property
    def effective_to(self) -> int | None:
        """First instant after it; None = without end."""


def start_of(item: Interval) -> int:
    """Instant (µs UTC) from which something holds; far in the past where it states none."""
    return -INT64_MAX if item.effective_from is None else item.effective_from


def holds_at(item: Interval, at: int) -> bool:
    """Whether something is in force at an instant (µs UTC); its end is excluded."""
    return (item.effective_from is None or item.effective_from <= at) and (
        item.effective_to is None or at < item.effective_to
    )


class Tier(NamedTuple):
    """Rates for one service tier and for requests of more than `above_input_tokens` tokens."""

    service_tier: str
    above_input_tokens: int
    rates_pusd: Mapping[str, int]


class PlainRates(NamedTuple):
    """The classes that most requests have; None where the entry states no cache rate of its own."""

    input: int
    cache_read: int | None
    cache_write: int | None
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class RateCard:
    """Rates in force for one request, with the assumption behind each that is not stated."""

    rates_pusd: Mapping[str, int]
    assumed: Mapping[str, str]

    def plain(self) -> PlainRates | None:
        """The stated rates of the common classes; None where a request may cost anything else."""
        stated = {k: v for k, v in self.rates_pusd.items() if k not in self.assumed}
        if not stated.keys() >= _PLAIN_NEEDS or not _PLAIN_LACKS.isdisjoint(stated):
            return None
        return PlainRates(stated["input"], stated.get("cache_read"), stated.get("cache_write"),
                          stated["output"], stated["reasoning"])  # fmt: skip


_PLAIN_NEEDS = frozenset({"input", "output", "reasoning"})
_PLAIN_LACKS = frozenset({"request", *MEASURED_CLASSES})


@dataclass(frozen=True)
class PriceEntry:
    """The rates of a model key, of one provider or any, from and until an instant (µs UTC).

    With `tenant_id` it is what that tenant pays. A missing rate is taken from the nearest tier that
    has one, the same context length before the same service tier; where none has it, from the
    class that stands in for it.
    """

    model: str
    provider: str | None
    tiers: tuple[Tier, ...]
    effective_from: int | None = None
    effective_to: int | None = None
    tenant_id: str | None = None
    always: bool = field(init=False, repr=False, compare=False)
    plain: PlainRates | None = field(init=False, repr=False, compare=False)
    lowest_threshold: int = field(init=False, repr=False, compare=False)
    free_tokens: bool = field(init=False, repr=False, compare=False)
    by_unit: bool = field(init=False, repr=False, compare=False)
    _cards: dict[tuple[str, int], RateCard] = field(init=False, repr=False, compare=False)
    _thresholds: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tiers = sorted(self.tiers, key=lambda t: (t.service_tier, t.above_input_tokens))
        stated = {(t.service_tier, t.above_input_tokens): t.rates_pusd for t in self.tiers}
        thresholds = sorted({0, *(t.above_input_tokens for t in self.tiers)}, reverse=True)
        cards = {
            (service_tier, threshold): _card(stated, service_tier, thresholds[place:])
            for service_tier in {STANDARD, *(t.service_tier for t in self.tiers)}
            for place, threshold in enumerate(thresholds)
        }
        lowest = thresholds[-2] if len(thresholds) > 1 else INT64_MAX
        by_unit, free_tokens = _billing(self.tiers)
        plain = None if by_unit else cards[STANDARD, 0].plain()
        always = self.effective_from is None and self.effective_to is None
        for name, value in (
            ("tiers", tuple(tiers)), ("plain", plain), ("_cards", cards), ("by_unit", by_unit),
            ("lowest_threshold", lowest), ("_thresholds", tuple(thresholds)),
            ("free_tokens", free_tokens), ("always", always),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def holds_at(self, at: int) -> bool:
        """Whether the entry is in force at an instant (µs UTC); its end is excluded."""
        return holds_at(self, at)

    def has_service_tier(self, service_tier: str) -> bool:
        """Whether the entry states rates for a service tier."""
        return (service_tier, 0) in self._cards

    def card(self, service_tier: str, input_tokens: int) -> RateCard:
        """Rates of a request; a service tier without rates of its own gets the standard ones."""
        threshold = next((t for t in self._thresholds if t < input_tokens), 0)
        known = service_tier if self.has_service_tier(service_tier) else STANDARD
        return self._cards[known, threshold]

    def rates_pusd(self, service_tier: str = STANDARD, input_tokens: int = 0) -> dict[str, int]:
        """Stated rates per class for a request of that size, in the order of RATE_CLASSES."""
        card = self.card(service_tier, input_tokens)
        return {
            name: card.rates_pusd[name]
            for name in RATE_CLASSES
            if name in card.rates_pusd and name not in card.assumed
        }


@dataclass(frozen=True)
class ToolPrice:
    """What calls of a tool cost: of one name or any, on one server or any, for a tenant or all."""

    tool_name: str | None
    tool_server: str | None
    rates_pusd: Mapping[str, int]
    effective_from: int | None = None
    effective_to: int | None = None
    tenant_id: str | None = None
    card: RateCard = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "card", _card({(STANDARD, 0): self.rates_pusd}, STANDARD, [0]))


def _billing(tiers: Iterable[Tier]) -> tuple[bool, bool]:
    """Whether a request costs nothing without its units, and whether its tokens are free.

    Both guard against taking a model for free that is billed by something else than tokens.
    """
    rates: dict[str, int] = {}
    for tier in tiers:
        for name, rate in tier.rates_pusd.items():
            rates[name] = max(rate, rates.get(name, 0))
    tokens = [rates[name] for name in TOKEN_CLASSES if name in rates]
    measured = any(name in rates for name in MEASURED_CLASSES)
    if any(tokens) or rates.get("request") or (tokens and measured):
        return False, False
    if tokens:
        return any(rates.get(name) for name in UNIT_CLASSES), False
    counted = any(name in rates for name in (*UNIT_CLASSES, *SERVER_TOOL_CLASSES))
    return counted and not measured, counted or measured


def _card(
    stated: Mapping[tuple[str, int], Mapping[str, int]],
    service_tier: str,
    thresholds: Iterable[int],
) -> RateCard:
    places = [(tier, t) for t in thresholds for tier in dict.fromkeys((service_tier, STANDARD))]
    rates: dict[str, int] = {}
    assumed: dict[str, str] = {}
    for name, rate, place in _nearest(stated, places):
        rates[name] = rate
        if place != places[0] and name not in _SAME_IN_ALL_TIERS:
            assumed[name] = f"{name} at the rate of another tier"
    for name, other in STAND_IN.items():
        if name not in rates and other in rates:
            rates[name] = rates[other]
            assumed[name] = f"{name} at the {other} rate"
    if "reasoning" not in rates and "output" in rates:
        rates["reasoning"] = rates["output"]
        if "output" in assumed:
            assumed["reasoning"] = assumed["output"]
    return RateCard(MappingProxyType(rates), MappingProxyType(assumed))


def _nearest(
    stated: Mapping[tuple[str, int], Mapping[str, int]], places: list[tuple[str, int]]
) -> Iterator[tuple[str, int, tuple[str, int]]]:
    for name in RATE_CLASSES:
        for place in places:
            if name in stated.get(place, ()):
                yield name, stated[place][name], place
                break
