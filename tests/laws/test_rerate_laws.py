"""Re-rating is exact, says nothing twice, and can be taken back to the last pico-dollar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW
from tests.laws.test_rating_laws import token_counts
from tests.stored import as_stored, original

from sluice.feedback.rerate import Rerating, rate
from sluice.metering.prices import PriceBook, PriceEntry
from sluice.metering.rates import Tier

Rows = list[dict[str, Any]]
rates = st.fixed_dictionaries(
    {name: st.integers(0, 10**7) for name in ("input", "output", "cache_read", "cache_write")}
)


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    """A book of some of three models."""
    models = draw(st.lists(st.sampled_from(["m", "n", "o"]), unique=True))
    entries = tuple(PriceEntry(m, "p", (Tier("", 0, draw(rates)),)) for m in sorted(models))
    return PriceBook("law", "hand", "none", entries)


@st.composite
def stores(draw: st.DrawFn) -> tuple[PriceBook, list[Rows]]:
    """Usage priced by a book, some of it billed by the provider; one group per event."""
    book = draw(books())
    groups: list[Rows] = []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        model = draw(st.sampled_from(["m", "n", "o"]))
        tokens = draw(token_counts())
        event = original(number, None, request_model=model, provider_name="p", **tokens)
        rated = rate(book, event)
        event["cost_pusd"] = None if rated is None else rated.cost_pusd
        if draw(st.booleans()) and rated is not None:
            part = draw(st.integers(0, rated.cost_pusd))
            event["usage_by_class"] = [{"key": "input", "quantity": 7, "cost_pusd": part}]
        if draw(st.integers(0, 4)) == 0:
            event |= {"cost_pusd": draw(st.integers(0, 10**12)), "cost_source": "provider"}
        groups.append([event])
    return book, groups


def rerated(groups: list[Rows], book: PriceBook) -> tuple[list[Rows], Rows]:
    """The store once the corrections are in it, and the corrections."""
    made = [as_stored(c) for c in Rerating(book, NOW).corrections(groups)]
    by_id: dict[str, Rows] = {}
    for correction in made:
        by_id.setdefault(correction["corrects_event_id"], []).append(correction)
    return [group + by_id.get(group[0]["event_id"], []) for group in groups], made


def net(group: Sequence[Mapping[str, Any]]) -> int | None:
    """What an event stands at; None where nothing gave it a price."""
    costs = [row["cost_pusd"] for row in group if row["cost_pusd"] is not None]
    return sum(costs) if costs else None


def fixed(group: Rows) -> bool:
    """Whether a provider billed the event."""
    return group[0]["cost_source"] == "provider"


@given(stores(), books())
def test_what_was_plus_the_deltas_is_the_cost_under_the_new_book(
    store: tuple[PriceBook, list[Rows]], new: PriceBook
) -> None:
    """Every event stands at the new price, or where a bill or a missing price leaves it."""
    before = store[1]
    after, _ = rerated(before, new)
    for old, group in zip(before, after, strict=True):
        rated = None if fixed(group) else rate(new, group[0])
        assert net(group) == (net(old) if rated is None else rated.cost_pusd)


@given(stores(), books())
def test_a_second_run_says_nothing(store: tuple[PriceBook, list[Rows]], new: PriceBook) -> None:
    """Once the corrections are stored, the same re-rating has no more of them."""
    once, _ = rerated(store[1], new)
    assert rerated(once, new)[1] == []


@given(stores(), books())
def test_back_to_the_old_book_restores_the_totals(
    store: tuple[PriceBook, list[Rows]], new: PriceBook
) -> None:
    """There and back again leaves every event's total at what it was."""
    old, before = store
    there, _ = rerated(before, new)
    back, _ = rerated(there, old)
    assert [net(group) or 0 for group in back] == [net(group) or 0 for group in before]


@given(stores(), books())
def test_every_step_has_an_id_of_its_own(
    store: tuple[PriceBook, list[Rows]], new: PriceBook
) -> None:
    """However often it goes there and back, no correction replaces another one; ids are UUIDv7."""
    old, groups = store
    made: Rows = []
    for book in (new, old, new, old):
        groups, more = rerated(groups, book)
        made += more
    ids = [correction["event_id"] for correction in made]
    assert len(set(ids)) == len(ids)
    assert all(i[14] == "7" and i[19] in "89ab" and len(i) == 36 for i in ids)


@given(stores(), books())
def test_class_deltas_add_up_to_the_cost_delta(
    store: tuple[PriceBook, list[Rows]], new: PriceBook
) -> None:
    """The classes of a correction explain its cost to the last pico-dollar."""
    for correction in rerated(store[1], new)[1]:
        parts = correction["usage_by_class"]
        assert sum(part["cost_pusd"] for part in parts) == correction["cost_pusd"]
        assert all(part["quantity"] or part["cost_pusd"] for part in parts)


@given(stores(), books())
def test_the_summary_tells_what_the_corrections_do(
    store: tuple[PriceBook, list[Rows]], new: PriceBook
) -> None:
    """Before, after and changed counts of the summary equal those of the store."""
    rerating = Rerating(new, NOW)
    made = list(rerating.corrections(store[1]))
    after, _ = rerated(store[1], new)
    total = rerating.summary.total()
    assert total.events == len(store[1])
    assert total.changed == len(made)
    assert total.before_pusd == sum(net(group) or 0 for group in store[1])
    assert total.after_pusd == sum(net(group) or 0 for group in after)
