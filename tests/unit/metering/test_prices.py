"""Price books: look-up, file format, version, the packaged book."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from sluice.metering.prices import (
    Contract,
    Fault,
    PriceBook,
    PriceBookError,
    PriceEntry,
    ToolPrice,
    default_book,
    load_book,
    subset,
)
from sluice.metering.rates import Tier


def _entry(
    model: str, rate: int, provider: str | None = None, start: int | None = None,
    end: int | None = None,
) -> PriceEntry:  # fmt: skip
    return PriceEntry(model, provider, (Tier("", 0, {"input": rate}),), start, end)


def _book(*entries: PriceEntry) -> PriceBook:
    return PriceBook("test", "hand", "none", entries)


def _found(book: PriceBook, model: str, provider: str | None = None) -> int | None:
    entry = book.find(model, provider)
    return None if entry is None else entry.rates_pusd()["input"]


def _text(**over: Any) -> str:
    tiers = [{"rates_pusd": {"input": 5}}]
    book = {
        "book_id": "b",
        "source": "s",
        "licence": "l",
        "entries": [{"model": "m", "tiers": tiers}],
    }
    return json.dumps(book | over, indent=1)


def _faults(text: str) -> list[Fault]:
    with pytest.raises(PriceBookError) as caught:
        load_book(text)
    return list(caught.value.faults)


def test_the_most_specific_entry_is_found() -> None:
    """Key of the provider, then provider/key, then the key of no provider in particular."""
    own = _entry("m", 1, "aws.bedrock")
    qualified = _entry("bedrock/m", 2, "aws.bedrock")
    general = _entry("m", 3)
    assert _found(_book(own, qualified, general), "m", "aws.bedrock") == 1
    assert _found(_book(qualified, general), "m", "aws.bedrock") == 2
    assert _found(_book(qualified, general), "m", "bedrock") == 2
    assert _found(_book(qualified, general), "m", "openai") == 3
    assert _found(_book(qualified), "bedrock/m", "openai") == 2
    assert _found(_book(qualified), "m", "openai") is None


def test_a_key_of_one_provider_serves_all_of_two_none() -> None:
    """Where two providers ask different prices, an event of a third gets neither."""
    first, second = _entry("m", 1, "a"), _entry("m", 2, "b")
    assert _found(_book(first), "m", "c") == 1
    assert _found(_book(first, second), "m", "b") == 2
    assert _found(_book(first, second), "m", "c") is None


def test_prices_change_at_an_instant() -> None:
    """The end of an interval is excluded, so that neighbours never overlap."""
    book = _book(_entry("m", 1, end=10), _entry("m", 2, start=10, end=20))
    found = [book.find("m", None, at) for at in (9, 10, 19, 20)]
    assert [e.rates_pusd()["input"] if e else None for e in found] == [1, 2, 2, None]
    assert _found(book, "m") == 2


def test_two_prices_at_one_time_are_refused() -> None:
    """Also where only one instant is shared."""
    with pytest.raises(PriceBookError, match="another price at the same time"):
        _book(_entry("m", 1, "p", end=11), _entry("m", 2, "p", start=10))


def test_the_version_follows_the_content() -> None:
    """Order does not change it, any rate does; a file keeps it."""
    one, two = _entry("a", 1), _entry("b", 2, "p", 5, 6)
    book = _book(one, two)
    assert book == _book(two, one)
    assert book.version == _book(two, one).version
    assert book.version != _book(one, _entry("b", 3, "p", 5, 6)).version
    assert load_book(book.to_json()) == book
    assert len(book.version) == 16


def test_a_changed_file_must_not_keep_its_version() -> None:
    """The fault names the version that the content has."""
    book = _book(_entry("m", 1))
    changed = book.to_json().replace('"input":1', '"input":2')
    ((line, path, message),) = _faults(changed)
    assert (line, path) == (1, "version")
    assert _book(_entry("m", 2)).version in message


def test_every_fault_is_reported_with_its_place() -> None:
    """One pass finds all of them, each with line and path."""
    entries = [
        {"model": "m", "tiers": [{"rates_pusd": {"input": 0.5, "inptu": 1, "output": -1}}]},
        {"tiers": []},
        {"model": "n", "tiers": [{"rates_pusd": {"input": 2**63}}], "colour": "red"},
    ]
    text = _text(currency="EUR", entries=entries)
    lines = text.splitlines()
    faults = _faults(text)
    assert sorted(path for _, path, _ in faults) == [
        "currency",
        "entries[0].tiers[0].rates_pusd.inptu",
        "entries[0].tiers[0].rates_pusd.input",
        "entries[0].tiers[0].rates_pusd.output",
        "entries[1].model",
        "entries[1].tiers",
        "entries[2].colour",
        "entries[2].tiers[0].rates_pusd.input",
    ]
    named = {path: lines[line - 1] for line, path, _ in faults}
    for path in ("currency", "entries[0].tiers[0].rates_pusd.inptu", "entries[2].colour"):
        assert f'"{path.rpartition(".")[2]}"' in named[path]
    assert named["entries[1].model"].strip() == "{"


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"effective_from": 5, "effective_to": 5}, "entries[0].effective_to"),
        ({"tiers": [{"rates_pusd": {"input": 1}}, {"rates_pusd": {"input": 2}}]},
         "entries[0].tiers[1]"),
        ({"tiers": [{"rates_pusd": {}}]}, "entries[0].tiers[0].rates_pusd"),
        ({"effective_from": True}, "entries[0].effective_from"),
    ],
)  # fmt: skip
def test_contradictions_within_an_entry_are_faults(entry: Mapping[str, Any], path: str) -> None:
    """Empty intervals, tiers standing twice, tiers without rates, instants that are no numbers."""
    tiers = [{"rates_pusd": {"input": 1}}]
    assert [f[1] for f in _faults(_text(entries=[{"model": "m", "tiers": tiers, **entry}]))] == [
        path
    ]


def test_overlapping_entries_are_a_fault_with_its_place() -> None:
    """The later of the two entries is named."""
    entry = {"model": "m", "tiers": [{"rates_pusd": {"input": 1}}]}
    assert [path for _, path, _ in _faults(_text(entries=[entry, entry]))] == ["entries[1]"]


def test_a_name_standing_twice_is_a_fault() -> None:
    """JSON would silently take the last one."""
    text = _text().replace('"input": 5', '"input": 5,\n"input": 6')
    ((_, path, message),) = _faults(text)
    assert (path, message) == ("entries[0].tiers[0].rates_pusd.input", "this name stands twice")


@pytest.mark.parametrize("text", ["", "{", "[]", "nul", '{"entries": NaN}', "[" * 100_000, "7"])
def test_what_is_no_book_is_a_fault(text: str) -> None:
    """Broken JSON of any kind is a PriceBookError, never another exception."""
    assert _faults(text)


def test_broken_json_is_reported_with_its_line() -> None:
    """The place of a missing comma, say."""
    assert _faults('{"book_id": "b"\n "source": "s"}')[0][0] == 2


def test_a_subset_has_the_named_models_only() -> None:
    """Keys that the book lacks are all named."""
    book = _book(_entry("a", 1, "p"), _entry("a", 2, "q"), _entry("b", 3))
    assert [e.rates_pusd()["input"] for e in subset(book, ["a"], "s").entries] == [1, 2]
    with pytest.raises(PriceBookError) as caught:
        subset(book, ["a", "x", "y"], "s")
    assert [fault.message[:1] for fault in caught.value.faults] == ["x", "y"]


def test_search_is_by_part_of_key_or_provider() -> None:
    """Whatever the case."""
    book = _book(_entry("Gpt-4o", 1, "openai"), _entry("o3", 2, "openai"), _entry("m", 3))
    assert [entry.model for entry in book.matching("GPT")] == ["Gpt-4o"]
    assert len(book.matching("OpenAI")) == 2


def test_the_packaged_book_prices_the_usual_models() -> None:
    """USD per million tokens as published: input, cache read, output."""
    rates = {
        ("gpt-4o", "openai"): (2_500_000, 1_250_000, 10_000_000),
        ("claude-sonnet-4-5", "anthropic"): (3_000_000, 300_000, 15_000_000),
        ("gemini-2.5-flash", "gcp.gemini"): (300_000, 30_000, 2_500_000),
        ("mistral-large-latest", "mistral_ai"): (500_000, 50_000, 1_500_000),
    }
    for (model, provider), (input_rate, read_rate, output_rate) in rates.items():
        entry = default_book().find(model, provider)
        assert entry is not None
        stated = entry.rates_pusd()
        assert (stated["input"], stated["output"]) == (input_rate, output_rate)
        assert stated["cache_read"] == read_rate


def test_the_packaged_book_names_its_origin() -> None:
    """Source, licence and a version that the file itself states."""
    book = default_book()
    assert "BerriAI/litellm" in book.source
    assert book.licence == "MIT"
    assert len(book.entries) >= 60


def test_tools_and_contracts_survive_the_file() -> None:
    """Equal multipliers give one version, however they are written."""
    tool = {"tool_name": "search", "rates_pusd": {"tool_call": 5}, "effective_from": 3}
    books = [
        load_book(_text(tools=[tool], contracts=[{"tenant_id": "t", "multiplier": text}]))
        for text in ("0.85", "0.850")
    ]
    assert books[0].version == books[1].version
    assert load_book(books[0].to_json()) == books[0]
    assert books[0].tools == (ToolPrice("search", None, {"tool_call": 5}, 3),)
    assert books[0].contracts == (Contract("t", Decimal("0.85")),)


def test_a_tenants_own_entries_are_preferred() -> None:
    """With the same order of look-ups among themselves; others never see them."""
    general = _entry("m", 1, "p")
    own = replace(_entry("m", 2, "p"), tenant_id="t")
    later = replace(_entry("p/m", 3, "p", start=10), tenant_id="u")
    book = _book(general, own, later)
    found = [book.find("m", "p", at, tenant)
             for at, tenant in ((9, "t"), (9, None), (9, "x"), (9, "u"), (10, "u"))]  # fmt: skip
    assert [e.rates_pusd()["input"] if e else None for e in found] == [2, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("over", "path"),
    [
        ({"tools": [{"rates_pusd": {"input": 1}}]}, "tools[0].rates_pusd.input"),
        ({"tools": [{"tool_name": "x", "rates_pusd": {}}]}, "tools[0].rates_pusd"),
        ({"tools": [{"rates_pusd": {"tool_call": 1}}] * 2}, "tools[1]"),
        ({"tools": [{"rates_pusd": {"tool_call": 1}, "effective_from": 5, "effective_to": 5}]},
         "tools[0].effective_to"),
        ({"contracts": [{"multiplier": "1"}]}, "contracts[0].tenant_id"),
        ({"contracts": [{"tenant_id": "t", "multiplier": 0.85}]}, "contracts[0].multiplier"),
        ({"contracts": [{"tenant_id": "t", "multiplier": "-1"}]}, "contracts[0].multiplier"),
        ({"contracts": [{"tenant_id": "t", "multiplier": "1000"}]}, "contracts[0].multiplier"),
        ({"contracts": [{"tenant_id": "t", "multiplier": "1", "effective_to": 3},
                        {"tenant_id": "t", "multiplier": "2", "effective_from": 2}]},
         "contracts[1]"),
    ],
)  # fmt: skip
def test_faults_in_tools_and_contracts_have_their_place(over: dict[str, Any], path: str) -> None:
    """Unknown classes, empty rates, double prices, multipliers that are none."""
    assert [found for _, found, _ in _faults(_text(**over))] == [path]


def test_a_multiplier_that_no_file_could_hold_is_refused() -> None:
    """So that every book can be written and read back."""
    for text in ("-0.5", "1000", "NaN", "0.1234567891"):
        with pytest.raises(ValueError, match="no multiplier"):
            Contract("t", Decimal(text))
