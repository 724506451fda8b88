"""Cost against plain decimal arithmetic, and the conservation of tokens and money."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import usage

from sluice.metering.litellm import import_book
from sluice.metering.prices import PriceBook, PriceEntry, load_book
from sluice.metering.rates import RATE_CLASSES, Tier
from sluice.metering.rating import cost, token_classes

# US dollars per token with at most twelve decimals, as price lists have them.
dollars = st.decimals(0, Decimal("0.01"), places=12, allow_nan=False)
counts = st.integers(0, 2_000_000)
KEYS = ("input.audio", "input.image", "input.video", "cache_read.audio", "cache_read.image",
        "cache_write.audio", "output.audio", "output.image", "output.text")  # fmt: skip


def some_rates(*names: str) -> st.SearchStrategy[dict[str, int]]:
    """A rate for each class named."""
    return st.fixed_dictionaries({name: st.integers(0, 10**9) for name in sorted(names)})


@st.composite
def token_counts(draw: st.DrawFn) -> dict[str, Any]:
    """Token counts that pass the checks of a usage event."""
    read, short, long, rest, fresh = (draw(counts) for _ in range(5))
    reasoning, text = draw(counts), draw(counts)
    return {
        "input_tokens": read + short + long + rest + fresh,
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": short + long + rest,
        "cache_write_by_ttl": [{"key": "300", "value": short}, {"key": "3600", "value": long}],
        "output_tokens": reasoning + text,
        "reasoning_output_tokens": reasoning,
    }


def _event(tokens: dict[str, Any], **over: Any) -> dict[str, Any]:
    return usage(**{"request_model": "m", "provider_name": "p"} | tokens | over)


def _book(rates: dict[str, int]) -> PriceBook:
    return PriceBook("law", "hand", "none", (PriceEntry("m", "p", (Tier("", 0, rates),)),))


def _pusd(book: PriceBook, event: dict[str, Any]) -> int:
    rated = cost(book, event)
    assert rated is not None
    assert type(rated.cost_pusd) is int
    return rated.cost_pusd


@given(token_counts(), st.lists(dollars, min_size=6, max_size=6))
def test_cost_equals_decimal_arithmetic_on_published_dollars(
    tokens: dict[str, Any], rates: list[Decimal]
) -> None:
    """From the price file in dollars to pico-dollars, no digit is lost."""
    names = ("input_cost_per_token", "cache_read_input_token_cost",
             "cache_creation_input_token_cost", "cache_creation_input_token_cost_above_1hr",
             "output_cost_per_token", "output_cost_per_reasoning_token")  # fmt: skip
    fields = ", ".join(f'"{name}": {rate:f}' for name, rate in zip(names, rates, strict=True))
    book = import_book(f'{{"m": {{"litellm_provider": "p", {fields}}}}}'.encode()).book
    fresh, read, write, long, output, reasoning = rates
    read_tokens = tokens["cache_read_input_tokens"]
    written, hour = tokens["cache_write_input_tokens"], tokens["cache_write_by_ttl"][1]["value"]
    thought = tokens["reasoning_output_tokens"]
    usd = (
        (tokens["input_tokens"] - read_tokens - written) * fresh
        + read_tokens * read
        + (written - hour) * (write if write or not fresh else fresh)
        + hour * long
        + (tokens["output_tokens"] - thought) * output
        + thought * reasoning
    )
    assert Decimal(_pusd(book, _event(tokens))) == usd * 10**12


@given(
    token_counts(),
    st.lists(st.tuples(st.sampled_from(KEYS), counts), max_size=5),
    some_rates(*RATE_CLASSES),
)
def test_classes_are_disjoint_and_cost_is_additive_over_them(
    tokens: dict[str, Any], modalities: list[tuple[str, int]], rates: dict[str, int]
) -> None:
    """Input and output classes add up to the totals, and each is billed alone as in the sum."""
    stated = [{"key": key, "value": value} for key, value in modalities]
    event = _event(tokens, tokens_by_modality=stated)
    classes, _ = token_classes(event)
    outgoing = {k: v for k, v in classes.items() if k.startswith(("output", "reasoning"))}
    assert sum(outgoing.values()) == tokens["output_tokens"]
    assert sum(classes.values()) == tokens["input_tokens"] + tokens["output_tokens"]
    assert min(classes.values()) >= 0
    nothing = dict.fromkeys(RATE_CLASSES, 0)
    alone = [_pusd(_book(nothing | {name: rates[name]}), event) for name in RATE_CLASSES]
    assert _pusd(_book(rates), event) == sum(alone)


@given(
    token_counts(), some_rates("input", "output", "cache_read", "cache_write"),
    st.sampled_from(["auto", "on_demand"]),
)  # fmt: skip
def test_the_short_way_equals_the_long_one(
    tokens: dict[str, Any], rates: dict[str, int], service_tier: str
) -> None:
    """Events without anything special are rated by shorter code to the same amount."""
    plain = tokens | {"cache_write_by_ttl": []}
    short = _pusd(_book(rates), _event(plain))
    assert short == _pusd(_book(rates), _event(plain, service_tier=service_tier))


@given(token_counts(), token_counts(), some_rates(*(set(RATE_CLASSES) - {"request"})))
def test_cost_is_additive_over_events_and_corrections_take_it_back(
    first: dict[str, Any], second: dict[str, Any], rates: dict[str, int]
) -> None:
    """Two events cost what one with both their tokens costs; the negated one undoes it."""
    book = _book(rates)
    ttls = zip(first["cache_write_by_ttl"], second["cache_write_by_ttl"], strict=True)
    both = {name: first[name] + second[name] for name in first if name != "cache_write_by_ttl"}
    both["cache_write_by_ttl"] = [
        {"key": a["key"], "value": a["value"] + b["value"]} for a, b in ttls
    ]
    total = _pusd(book, _event(both))
    assert total == _pusd(book, _event(first)) + _pusd(book, _event(second))
    undo: dict[str, Any] = {k: -v for k, v in both.items() if k != "cache_write_by_ttl"}
    undo["cache_write_by_ttl"] = [
        {"key": item["key"], "value": -item["value"]} for item in both["cache_write_by_ttl"]
    ]
    assert total + _pusd(book, _event(undo, event_type="correction")) == 0


tiers = st.builds(
    Tier,
    st.sampled_from(["", "batch", "flex"]),
    st.sampled_from([0, 128_000, 200_000]),
    st.dictionaries(st.sampled_from(RATE_CLASSES), st.integers(0, 2**63 - 1), min_size=1),
)
entries = st.builds(
    PriceEntry,
    st.text(min_size=1, max_size=12).filter(str.isprintable),
    st.none() | st.sampled_from(["openai", "aws.bedrock"]),
    st.lists(tiers, min_size=1, max_size=4, unique_by=lambda t: t[:2]).map(tuple),
)


@given(st.lists(entries, max_size=5, unique_by=lambda e: (e.model, e.provider)))
def test_a_book_survives_its_file(chosen: list[PriceEntry]) -> None:
    """Whatever book there is, its file reads back as the same book with the same version."""
    book = PriceBook("law", 'a "source"\n', "", tuple(chosen))
    again = load_book(book.to_json())
    assert again == book
    assert again.to_json() == book.to_json()
