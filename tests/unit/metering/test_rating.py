"""What an event costs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, usage

from sluice.metering.prices import PriceBook, PriceEntry, default_book
from sluice.metering.rates import Tier
from sluice.metering.rating import cost, token_classes


def _book(*entries: PriceEntry) -> PriceBook:
    return PriceBook("test", "hand", "none", entries)


def _entry(model: str = "m", provider: str | None = "p", **rates: int) -> PriceEntry:
    return PriceEntry(model, provider, (Tier("", 0, rates),))


def _event(**over: Any) -> dict[str, Any]:
    zero = {"input_tokens": 0, "output_tokens": 0}
    return usage(**{"provider_name": "p", "request_model": "m"} | zero | over)


def _quantities(**values: int) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _pusd(book: PriceBook, **over: Any) -> int | None:
    rated = cost(book, _event(**over))
    return None if rated is None else rated.cost_pusd


FULL = _entry(input=100, output=1000, cache_read=10, cache_write=125, cache_write_3600=200,
              reasoning=2000, input_audio=7, cache_read_audio=3, output_image=5)  # fmt: skip


def test_each_class_is_billed_once_at_its_own_rate() -> None:
    """Cached input and reasoning are subsets and leave the class they are part of."""
    tokens = {"input_tokens": 100, "cache_read_input_tokens": 30, "cache_write_input_tokens": 20}
    output = {"output_tokens": 50, "reasoning_output_tokens": 40}
    assert _pusd(_book(FULL), **tokens, **output) == (
        50 * 100 + 30 * 10 + 20 * 125 + 10 * 1000 + 40 * 2000
    )


def test_cache_writes_are_billed_by_lifetime() -> None:
    """One hour has its own rate; five minutes and what has no lifetime get the default one."""
    event = _event(input_tokens=100, cache_write_input_tokens=90,
                   cache_write_by_ttl=_quantities(**{"300": 20, "3600": 50}))  # fmt: skip
    rated = cost(_book(FULL), event)
    assert rated is not None
    assert rated.cost_pusd == 10 * 100 + 40 * 125 + 50 * 200
    assert rated.assumptions == ()


def test_an_unknown_cache_lifetime_is_named() -> None:
    """Its tokens stay at the default rate and the result says so."""
    by_ttl = _quantities(**{"60": 5})
    event = _event(input_tokens=9, cache_write_input_tokens=9, cache_write_by_ttl=by_ttl)
    rated = cost(_book(FULL), event)
    assert rated is not None
    assert (rated.cost_pusd, len(rated.assumptions)) == (9 * 125, 1)


def test_modalities_leave_the_text_classes() -> None:
    """Audio in the cache is told apart from fresh audio; image output from text output."""
    event = _event(
        input_tokens=100, cache_read_input_tokens=40, output_tokens=10,
        tokens_by_modality=_quantities(
            **{"input.audio": 30, "cache_read.audio": 10, "output.image": 4, "input.text": 70}
        ),
    )  # fmt: skip
    counts, assumptions = token_classes(event)
    assert {k: v for k, v in counts.items() if v} == {
        "input": 40, "input_audio": 20, "cache_read": 30, "cache_read_audio": 10,
        "output": 6, "output_image": 4,
    }  # fmt: skip
    assert assumptions == ()
    assert _pusd(_book(FULL), **event) == 40 * 100 + 20 * 7 + 30 * 10 + 10 * 3 + 6 * 1000 + 4 * 5


def test_more_modality_tokens_than_tokens_are_named_not_billed() -> None:
    """The classes still add up to the event's totals."""
    event = _event(input_tokens=10, tokens_by_modality=_quantities(**{"input.audio": 25}))
    counts, assumptions = token_classes(event)
    assert (counts["input"], counts["input_audio"], len(assumptions)) == (0, 10, 1)


@pytest.mark.parametrize(
    ("over", "pusd", "assumption"),
    [
        ({"input_tokens": 9, "cache_read_input_tokens": 9}, 900, "cache_read at the input rate"),
        ({"input_tokens": 9, "cache_write_input_tokens": 9}, 900, "cache_write at the input rate"),
        ({"output_tokens": 9, "tokens_by_modality": _quantities(**{"output.audio": 9})}, 9000,
         "output_audio at the output rate"),
    ],
)  # fmt: skip
def test_a_missing_rate_is_replaced_and_named(
    over: dict[str, Any], pusd: int, assumption: str
) -> None:
    """The class it belongs to stands in, and the result says so."""
    rated = cost(_book(_entry(input=100, output=1000)), _event(**over))
    assert rated is not None
    assert (rated.cost_pusd, rated.assumptions) == (pusd, (assumption,))


def test_reasoning_costs_what_output_costs_unless_stated() -> None:
    """That is how providers bill it, so it is no assumption."""
    book = _book(_entry(input=100, output=1000))
    rated = cost(book, _event(output_tokens=5, reasoning_output_tokens=3))
    parts = (("output", 2, 2000), ("reasoning", 3, 3000))
    assert rated == (5000, "estimate", book.version, (), parts)


@pytest.mark.parametrize(
    ("rates", "over"),
    [({"output": 5}, {"input_tokens": 1}), ({"input": 5}, {"output_tokens": 1})],
)
def test_tokens_without_any_rate_are_unpriced(rates: dict[str, int], over: dict[str, int]) -> None:
    """None, never 0, where the entry says nothing about a class that was used."""
    assert _pusd(_book(PriceEntry("m", "p", (Tier("", 0, rates),))), **over) is None


def test_an_unused_class_needs_no_rate() -> None:
    """An embedding model without output rate is priced by its input."""
    assert _pusd(_book(_entry(input=5)), event_type="embedding", input_tokens=3) == 15


def test_unknown_models_are_unpriced() -> None:
    """Also where nothing was used: the book cannot know."""
    assert _pusd(_book(FULL), request_model="other", input_tokens=1) is None
    assert _pusd(_book(FULL), request_model="other") is None


def test_the_model_that_answered_counts() -> None:
    """response_model goes before request_model and is not second-guessed."""
    book = _book(_entry(input=1), _entry("dear", input=7))
    assert _pusd(book, input_tokens=1, response_model="dear") == 7
    assert _pusd(book, input_tokens=1, response_model="other") is None


def test_what_the_provider_billed_wins() -> None:
    """Its amount needs no price, not even a book; other sources of a cost do not count."""
    billed = {"cost_pusd": 42, "cost_source": "provider", "input_tokens": 1}
    assert _pusd(_book(FULL), **billed) == 42
    parts = (("input", 1, 0), ("unclassified", 1, 42))
    assert cost(None, _event(**billed)) == (42, "provider", None, (), parts)
    assert _pusd(_book(FULL), **billed | {"cost_source": "estimate"}) == 100


def test_without_a_book_nothing_has_a_price() -> None:
    """Usage before the first book is unpriced."""
    assert cost(None, _event(input_tokens=1)) is None


@pytest.mark.parametrize("event_type", ["admission", "gpu_adjustment"])
def test_records_that_are_no_usage_cost_nothing(event_type: str) -> None:
    """They cost 0 and are not unpriced, with a book or without."""
    for book in (None, _book(FULL)):
        rated = cost(book, _event(event_type=event_type, request_model="other"))
        assert rated is not None
        assert rated.cost_pusd == 0


def test_a_tool_call_is_free_and_says_that_it_has_no_price() -> None:
    """Prices of tools are not in the book; tokens in a tool event are billed as such."""
    rated = cost(_book(FULL), _event(event_type="tool", request_model="other"))
    assert rated is not None
    assert (rated.cost_pusd, rated.assumptions) == (0, ("tool call not priced",))
    assert _pusd(_book(FULL), event_type="tool", input_tokens=2) == 200


@pytest.mark.parametrize(
    ("name", "key", "said", "counted"),
    [
        ("units", "images", "images not priced", 1),
        ("units", "input", "units input not priced", 0),
        ("server_tool_requests", "web_search", "web_search not priced", 1),
        ("server_tool_requests", "images", "server_tool_requests images not priced", 0),
    ],
)
def test_other_units_are_named_as_not_priced(name: str, key: str, said: str, counted: int) -> None:
    """The tokens are billed; the result says what is missing, and counts it if it is a class."""
    rated = cost(_book(FULL), _event(input_tokens=1, **{name: _quantities(**{key: 2})}))
    assert rated is not None
    assert (rated.cost_pusd, rated.assumptions) == (100, (said,))
    assert rated.parts == (("input", 1, 100), (key, 2, 0))[: 1 + counted]


def test_a_request_fee_is_billed_once_per_request_that_ran() -> None:
    """Not for corrections, nor where the provider never saw the request."""
    book = _book(_entry(input=1, output=1, request=1000))
    assert _pusd(book, input_tokens=5) == 1005
    assert _pusd(book, input_tokens=5, event_type="correction") == 5
    assert _pusd(book, outcome="rejected") == 0


def test_a_correction_costs_its_signed_deltas() -> None:
    """An event and the correction that takes it back add up to nothing."""
    tokens = {"input_tokens": 70, "cache_read_input_tokens": 30, "cache_write_input_tokens": 20,
              "output_tokens": 50, "reasoning_output_tokens": 40}  # fmt: skip
    arrays = {"cache_write_by_ttl": {"3600": 9}, "tokens_by_modality": {"input.audio": 6}}
    there = {name: _quantities(**values) for name, values in arrays.items()}
    back = {name: _quantities(**{k: -v for k, v in values.items()})
            for name, values in arrays.items()}  # fmt: skip
    undone = {name: -count for name, count in tokens.items()}
    first = _pusd(_book(FULL), **tokens, **there)
    second = _pusd(_book(FULL), **undone, **back, event_type="correction")
    assert first is not None
    assert second == -first


TIERED = PriceEntry("m", "p", (
    Tier("", 0, {"input": 10, "output": 100, "cache_read": 1}),
    Tier("", 1000, {"input": 20, "output": 150, "cache_read": 2}),
    Tier("batch", 0, {"input": 5, "output": 50}),
    Tier("priority", 0, {"input": 17, "output": 170, "cache_read": 3}),
    Tier("priority", 1000, {"input": 34, "output": 255}),
))  # fmt: skip


@pytest.mark.parametrize(
    ("service_tier", "input_tokens", "rates", "assumed"),
    [
        (None, 1000, (10, 1, 100), False),
        ("default", 1001, (20, 2, 150), False),
        ("priority", 1000, (17, 3, 170), False),
        ("PRIORITY", 1001, (34, 2, 255), True),
        ("on_demand_priority", 10, (17, 3, 170), False),
        ("batch", 10, (5, 1, 50), True),
        ("batches", 1001, (20, 2, 150), True),
        ("scale", 10, (10, 1, 100), True),
    ],
)
def test_tiers_choose_the_rates(
    service_tier: str | None, input_tokens: int, rates: tuple[int, int, int], *, assumed: bool
) -> None:
    """Context length counts for the whole request; a rate taken from another tier is named."""
    event = _event(service_tier=service_tier, input_tokens=input_tokens, output_tokens=3,
                   cache_read_input_tokens=4)  # fmt: skip
    rated = cost(_book(TIERED), event)
    assert rated is not None
    assert rated.cost_pusd == (input_tokens - 4) * rates[0] + 4 * rates[1] + 3 * rates[2]
    assert bool(rated.assumptions) is assumed


def test_a_correction_of_a_model_with_context_tiers_is_an_assumption() -> None:
    """Its deltas do not say how long the original request was."""
    event = _event(event_type="correction", input_tokens=-2000)
    rated = cost(_book(TIERED), event)
    assert rated is not None
    assert (rated.cost_pusd, len(rated.assumptions)) == (-20_000, 1)


def test_another_providers_price_is_named() -> None:
    """A model key of only one provider serves events of others, visibly."""
    rated = cost(_book(FULL), _event(provider_name="elsewhere", input_tokens=1))
    assert rated is not None
    assert rated.assumptions == ("the price of p for provider 'elsewhere'",)


def test_the_price_is_that_of_the_end_of_the_request() -> None:
    """Of two intervals the one that contains occurred_at counts; outside both there is no price."""
    tiers = [(Tier("", 0, {"input": rate}),) for rate in (1, 2)]
    book = _book(PriceEntry("m", "p", tiers[0], 100, NOW), PriceEntry("m", "p", tiers[1], NOW))
    assert _pusd(book, input_tokens=1, occurred_at=NOW - 1) == 1
    assert _pusd(book, input_tokens=1, occurred_at=NOW) == 2
    assert _pusd(book, input_tokens=1, occurred_at=99) is None


def test_a_cost_beyond_64_bits_is_an_error() -> None:
    """Neither wrapped nor cut off, on the short way and on the long one, billed or rated."""
    book = _book(_entry(input=10**12, output=0))
    for over in ({}, {"service_tier": "auto"}):
        with pytest.raises(OverflowError):
            cost(book, _event(input_tokens=10**7, **over))
    with pytest.raises(OverflowError):
        cost(book, _event(cost_pusd=2**63, cost_source="provider"))


def test_the_demo_event_has_a_price() -> None:
    """The packaged book prices Llama 2 7B: 0.05 and 0.25 USD per million tokens."""
    rated = cost(default_book(), usage(input_tokens=1_000_000, output_tokens=1_000_000))
    parts = (("input", 10**6, 50_000_000_000), ("output", 10**6, 250_000_000_000))
    assert rated == (300_000_000_000, "estimate", default_book().version, (), parts)
