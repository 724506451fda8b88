"""What one model costs: rates per class of token, by service tier and context length.

A rate is an integer of pico-USD per unit. One pico-USD per token is one millionth of a US dollar
per million tokens: 2.50 USD per million tokens is 2_500_000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from sluice.money import INT64_MAX

# Whose rate stands in where an entry has none. Every use is named in `RateCard.assumed`.
STAND_IN: Mapping[str, str] = MappingProxyType({
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_3600": "cache_write",
    "cache_write_43200": "cache_write",
    "input_audio": "input",
    "input_image": "input",
    "input_video": "input",
    "cache_read_audio": "cache_read",
    "cache_read_image": "cache_read",
    "cache_write_audio": "cache_write",
    "output_audio": "output",
    "output_image": "output",
    "output_video": "output",
})  # fmt: skip

# Priced units. They are disjoint: `input` is uncached, `output` is without reasoning, `cache_write`
# lives for the provider's default time (5 minutes where there are several). `reasoning` costs what
# `output` costs unless an entry says otherwise. `request` is a fee per inference or embedding call.
RATE_CLASSES: tuple[str, ...] = ("input", "output", "reasoning", "request", *STAND_IN)

STANDARD = ""  # the service tier of requests that ask for none


class Tier(NamedTuple):
    """Rates for one service tier and for requests of more than `above_input_tokens` tokens."""

    service_tier: str
    above_input_tokens: int
    rates_pusd: Mapping[str, int]


class PlainRates(NamedTuple):
    """The classes that most requests have; None where the entry states no rate of its own."""

    input: int | None
    cache_read: int | None
    cache_write: int | None
    output: int | None
    reasoning: int | None
    request: int


@dataclass(frozen=True, slots=True)
class RateCard:
    """Rates in force for one request, with the assumption behind each that is not stated."""

    rates_pusd: Mapping[str, int]
    assumed: Mapping[str, str]

    def plain(self) -> PlainRates:
        """The stated rates of the common classes."""
        stated = {k: v for k, v in self.rates_pusd.items() if k not in self.assumed}
        return PlainRates(
            stated.get("input"), stated.get("cache_read"), stated.get("cache_write"),
            stated.get("output"), stated.get("reasoning"), stated.get("request", 0),
        )  # fmt: skip


@dataclass(frozen=True)
class PriceEntry:
    """The rates of a model key, of one provider or any, from and until an instant (µs UTC).

    A missing rate is taken from the nearest tier that has one, the same context length before the
    same service tier; where none has it, from the class that stands in for it.
    """

    model: str
    provider: str | None
    tiers: tuple[Tier, ...]
    effective_from: int | None = None
    effective_to: int | None = None
    plain: PlainRates = field(init=False, repr=False, compare=False)
    lowest_threshold: int = field(init=False, repr=False, compare=False)
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
        for name, value in (
            ("tiers", tuple(tiers)), ("plain", cards[STANDARD, 0].plain()), ("_cards", cards),
            ("lowest_threshold", lowest), ("_thresholds", tuple(thresholds)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def holds_at(self, at: int) -> bool:
        """Whether the entry is in force at an instant (µs UTC); its end is excluded."""
        return (self.effective_from is None or self.effective_from <= at) and (
            self.effective_to is None or at < self.effective_to
        )

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
        if place != places[0] and name != "request":
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
