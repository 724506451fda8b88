"""The packaged baseline: token lengths at the event's own prices."""

from __future__ import annotations

from typing import Any

from tests.builders import NOW, arrived

from sluice.metering.packaged import thresholds
from sluice.metering.prices import PriceBook, PriceEntry
from sluice.metering.rates import Tier

HOUR_US = 3_600_000_000


def entry(start: int | None = None, end: int | None = None, scale: int = 1) -> PriceEntry:
    """Model m at 2 pico-USD per input token and 10 per output token, from and until a time."""
    rates = {"input": 2 * scale, "output": 10 * scale, "cache_read": scale}
    return PriceEntry("m", "p", (Tier("", 0, rates),), start, end)


def book(*entries: PriceEntry) -> PriceBook:
    """A book of these entries."""
    return PriceBook("b", "hand", "none", entries)


def call(**over: Any) -> dict[str, Any]:
    """A request of 100 input tokens to model m."""
    return arrived(**{"request_model": "m", "provider_name": "p"} | over)


def test_typical_lengths_are_priced() -> None:
    """Up to 1,024 tokens: 152 in and 421 out at the median, 853 and 4,403 at the 95th."""
    assert thresholds(call(), book(entry())) == (152 * 2 + 421 * 10, 853 * 2 + 4_403 * 10)


def test_an_embedding_has_no_output() -> None:
    """Only its input is priced."""
    assert thresholds(call(event_type="embedding"), book(entry())) == (304, 1_706)


def test_what_the_event_itself_used_does_not_matter() -> None:
    """Of the event only model and length class count: cache, output and outcome do not."""
    plain = thresholds(call(), book(entry()))
    spent = call(cache_read_input_tokens=50, output_tokens=9, outcome="error", cost_pusd=7,
                 cost_source="provider")  # fmt: skip
    assert thresholds(spent, book(entry())) == plain


def test_prices_change_with_time() -> None:
    """A price that begins at a date is known from then on, and only then."""
    changing = book(entry(NOW - HOUR_US, NOW, 3), entry(NOW, None, 5))
    found = [thresholds(call(occurred_at=NOW + k * HOUR_US, started_at=NOW - 3 * HOUR_US), changing)
             for k in (-2, -1, 0)]  # fmt: skip
    assert found == [None, (3 * 4_514, 3 * 45_736), (5 * 4_514, 5 * 45_736)]


def test_without_a_price_nothing_is_typical() -> None:
    """No book, no such model, or a tool: no thresholds."""
    assert thresholds(call(), None) is None
    assert thresholds(call(request_model="other"), book(entry())) is None
    assert thresholds(call(event_type="tool"), book(entry())) is None


def test_another_book_is_not_remembered_as_the_first() -> None:
    """What is remembered belongs to a version."""
    first, second = thresholds(call(), book(entry())), thresholds(call(), book(entry(scale=2)))
    assert first is not None
    assert second == (2 * first[0], 2 * first[1])
    assert thresholds(call(), book(entry())) == first
