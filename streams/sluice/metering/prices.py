"""Price books: immutable, versioned by their content, exact.

A book is a JSON file; amounts are integers of pico-USD, instants µs UTC:

    {"book_id": "default", "currency": "USD", "source": "...", "licence": "MIT",
     "version": "<first 16 hex digits of the content's SHA-256; may be left out>",
     "entries": [
      {"model": "gpt-4o", "provider": "openai", "effective_from": null, "effective_to": null,
       "tiers": [{"rates_pusd": {"input": 2500000, "cache_read": 1250000, "output": 10000000}},
                 {"service_tier": "batch", "above_input_tokens": 0, "rates_pusd": {...}}]}]}

In an entry all but `model` and `tiers` may be left out, in a tier all but `rates_pusd`. `provider`
has OTel's GenAI provider names; none means any. The classes are `rates.RATE_CLASSES`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from sluice.metering.book_file import Fault, PriceBookError, overlaps, read_book, start_of
from sluice.metering.rates import STANDARD, PriceEntry, Tier

__all__ = [
    "KEY_PREFIXES", "Fault", "PriceBook", "PriceBookError", "PriceEntry", "default_book",
    "load_book", "names_of", "subset",
]  # fmt: skip

# OTel provider name -> the prefix that model keys of LiteLLM and many gateways carry for it.
KEY_PREFIXES: Mapping[str, str] = MappingProxyType({
    "aws.bedrock": "bedrock",
    "azure.ai.inference": "azure_ai",
    "azure.ai.openai": "azure",
    "gcp.gemini": "gemini",
    "gcp.vertex_ai": "vertex_ai",
    "ibm.watsonx.ai": "watsonx",
    "mistral_ai": "mistral",
    "x_ai": "xai",
})  # fmt: skip

_Slot = tuple[str | None, str]


@dataclass(frozen=True)
class PriceBook:
    """Prices of models; `version` follows from the content.

    Raises PriceBookError where two entries of one model and provider hold at the same time.
    """

    book_id: str
    source: str
    licence: str
    entries: tuple[PriceEntry, ...]
    currency: Literal["USD"] = "USD"
    version: str = field(init=False)
    _index: dict[_Slot, tuple[PriceEntry, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if faults := list(overlaps(self.entries)):
            raise PriceBookError(faults)
        object.__setattr__(self, "entries", tuple(sorted(self.entries, key=_order)))
        object.__setattr__(self, "version", _version(_content(self)))
        object.__setattr__(self, "_index", _indexed(self.entries))

    def find(
        self, model: str, provider: str | None = None, at: int | None = None
    ) -> PriceEntry | None:
        """The entry in force at an instant (µs UTC; None: the latest one), or None.

        Order: the key `model` of that provider; the key "<provider>/<model>"; the key `model` of
        no provider in particular; the key `model` of the only provider that has it.
        """
        for slot in ((provider, model), (None, model)):
            for entry in self._index.get(slot, ()):
                if at is None or entry.holds_at(at):
                    return entry
        return None

    def matching(self, text: str) -> tuple[PriceEntry, ...]:
        """Entries whose model key or provider contains `text`, whatever its case."""
        want = text.lower()
        return tuple(e for e in self.entries if want in f"{e.provider or ''} {e.model}".lower())

    def to_json(self) -> str:
        """The book as a file, one entry per line; equal books give equal text."""
        head = {**_content(self), "version": self.version}
        entries = ",\n".join(_canonical(entry) for entry in head.pop("entries"))
        return f'{_canonical(head)[:-1]},"entries":[\n{entries}\n]}}\n'


def load_book(text: str) -> PriceBook:
    """Read a price book file.

    Raises PriceBookError with every fault, each with its line and path.
    """
    book_text = read_book(text)
    head = book_text.head
    book = PriceBook(head["book_id"], head["source"], head["licence"], book_text.entries)
    if head.get("version") not in (None, book.version):
        message = f"the content has version {book.version}; put that here or leave `version` out"
        raise PriceBookError([book_text.fault(("version",), message)])
    return book


@cache
def default_book() -> PriceBook:
    """The packaged book: list prices of widely used models, from LiteLLM (MIT, see books/)."""
    return load_book((files("sluice.metering") / "books" / "default.json").read_text("utf-8"))


def subset(book: PriceBook, models: Iterable[str], book_id: str) -> PriceBook:
    """A book of the entries with these model keys only.

    Raises PriceBookError naming every key that the book lacks.
    """
    wanted = set(models)
    if missing := sorted(wanted - {entry.model for entry in book.entries}):
        raise PriceBookError(
            Fault(0, "", f"{model} is not in price book {book.book_id}") for model in missing
        )
    chosen = tuple(entry for entry in book.entries if entry.model in wanted)
    return PriceBook(book_id, book.source, book.licence, chosen)


def names_of(provider: str) -> tuple[str, ...]:
    """The names under which events may carry a provider: OTel's and the key prefix."""
    return tuple(dict.fromkeys((provider, KEY_PREFIXES.get(provider, provider))))


def _indexed(entries: Iterable[PriceEntry]) -> dict[_Slot, tuple[PriceEntry, ...]]:
    exact: dict[_Slot, list[PriceEntry]] = defaultdict(list)
    qualified: dict[_Slot, list[PriceEntry]] = defaultdict(list)
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in sorted(entries, key=start_of, reverse=True):
        if entry.provider is None:
            exact[None, entry.model].append(entry)
            continue
        owners[entry.model].add(entry.provider)
        for name in names_of(entry.provider):
            exact[name, entry.model].append(entry)
            prefix, slash, rest = entry.model.partition("/")
            if slash and prefix in names_of(entry.provider):
                qualified[name, rest].append(entry)
    bare: dict[_Slot, list[PriceEntry]] = {
        (None, model): exact[next(iter(providers)), model]
        for model, providers in owners.items()
        if len(providers) == 1
    }
    return {slot: tuple(found) for slot, found in (bare | qualified | exact).items()}


def _content(book: PriceBook) -> dict[str, Any]:
    return {
        "book_id": book.book_id,
        "currency": book.currency,
        "source": book.source,
        "licence": book.licence,
        "entries": [_fields(entry) for entry in book.entries],
    }


def _order(entry: PriceEntry) -> tuple[str, str, int]:
    return entry.model, entry.provider or "", start_of(entry)


def _fields(entry: PriceEntry) -> dict[str, Any]:
    interval = {"effective_from": entry.effective_from, "effective_to": entry.effective_to}
    stated = {"provider": entry.provider, **interval}
    return {
        "model": entry.model,
        **{name: value for name, value in stated.items() if value is not None},
        "tiers": [_tier_fields(tier) for tier in entry.tiers],
    }


def _tier_fields(tier: Tier) -> dict[str, Any]:
    fields = {**tier._asdict(), "rates_pusd": dict(tier.rates_pusd)}
    return {name: value for name, value in fields.items() if value not in (STANDARD, 0)}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _version(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:16]
