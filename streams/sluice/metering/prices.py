"""Price books: immutable, versioned by their content, exact.

A book is a JSON file; amounts are integers of pico-USD, instants µs UTC:

    {"book_id": "default", "currency": "USD", "source": "...", "licence": "MIT",
     "version": "<first 16 hex digits of the content's SHA-256; may be left out>",
     "entries": [
      {"model": "gpt-4o", "provider": "openai", "effective_from": null, "effective_to": null,
       "tiers": [{"rates_pusd": {"input": 2500000, "cache_read": 1250000, "output": 10000000}},
                 {"service_tier": "batch", "above_input_tokens": 0, "rates_pusd": {...}}]}]}

In an entry all but `model` and `tiers` may be left out, in a tier all but `rates_pusd`. `provider`
has OTel's GenAI provider names; none means any. The classes and their units are in `classes`.
Beside `entries` a book may list what calls of tools cost (`tool_call` and what else a tool has),
and contracts, whose multiplier turns list prices into what a tenant pays:

    "tools": [{"tool_name": "search", "tool_server": "mcp-web", "rates_pusd": {"tool_call": 5000}}],
    "contracts": [{"tenant_id": "acme", "provider": "openai", "multiplier": "0.85"}]

An entry or a tool with `tenant_id` is that tenant's own price, final and preferred. A tool without
`tool_name` or `tool_server` stands for any. A book without `tools` says nothing about them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sluice.metering.book_file import Fault, PriceBookError, overlaps, read_book
from sluice.metering.contracts import Contract
from sluice.metering.price_index import BookIndex, names_of
from sluice.metering.rates import STANDARD, PriceEntry, Tier, ToolPrice, start_of

__all__ = [
    "Contract", "Fault", "PriceBook", "PriceBookError", "PriceEntry", "ToolPrice", "default_book",
    "load_book", "names_of", "subset",
]  # fmt: skip


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
    tools: tuple[ToolPrice, ...] = ()
    contracts: tuple[Contract, ...] = ()
    version: str = field(init=False)
    _index: BookIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lists: dict[str, Any] = {
            name: tuple(sorted(getattr(self, name), key=_order))
            for name in ("entries", "tools", "contracts")
        }
        for items in lists.values():
            if faults := [Fault(0, "", message) for _, message in overlaps(items)]:
                raise PriceBookError(faults)
        for name, items in lists.items():
            object.__setattr__(self, name, items)
        object.__setattr__(self, "version", _version(_content(self)))
        object.__setattr__(self, "_index", BookIndex(**lists))

    def find(
        self, model: str, provider: str | None = None, at: int | None = None,
        tenant_id: str | None = None,
    ) -> PriceEntry | None:  # fmt: skip
        """The entry in force at an instant (µs UTC; None: the latest one), or None.

        Order, for the tenant's own entries before those for all: the key `model` of that provider;
        the key "<provider>/<model>"; the key `model` of no provider in particular; the key `model`
        of the only provider that has it.
        """
        return self._index.entry(model, provider, at, tenant_id)

    def tool(
        self, tool_name: str, tool_server: str | None, at: int, tenant_id: str | None = None
    ) -> ToolPrice | None:
        """What a call of a tool costs at an instant (µs UTC), or None.

        Order, for the tenant's own prices before those for all: name and server, name on any
        server, any tool of the server, any tool.
        """
        return self._index.tool(tool_name, tool_server, at, tenant_id)

    def contract(
        self, tenant_id: str, provider: str, models: Iterable[str], at: int
    ) -> Contract | None:
        """The most specific contract of a tenant at an instant (µs UTC), or None.

        Order: provider and model, model, provider, all usage; `models` are the names that the model
        goes by, the preferred one first.
        """
        return self._index.contract(tenant_id, provider, models, at)

    def matching(self, text: str) -> tuple[PriceEntry, ...]:
        """Entries whose model key or provider contains `text`, whatever its case."""
        want = text.lower()
        return tuple(e for e in self.entries if want in f"{e.provider or ''} {e.model}".lower())

    def to_json(self) -> str:
        """The book as a file, one entry per line; equal books give equal text."""
        head = {**_content(self), "version": self.version}
        lists = [
            f'"{name}":[\n' + ",\n".join(_canonical(item) for item in head.pop(name)) + "\n]"
            for name in ("entries", "tools", "contracts")
            if name in head
        ]
        return f"{_canonical(head)[:-1]},{','.join(lists)}}}\n"


def load_book(text: str) -> PriceBook:
    """Read a price book file.

    Raises PriceBookError with every fault, each with its line and path.
    """
    book_text = read_book(text)
    head = book_text.head
    book = PriceBook(head["book_id"], head["source"], head["licence"], book_text.entries,
                     tools=book_text.tools, contracts=book_text.contracts)  # fmt: skip
    if head.get("version") not in (None, book.version):
        message = f"the content has version {book.version}; put that here or leave `version` out"
        raise PriceBookError([book_text.fault(("version",), message)])
    return book


@cache
def default_book() -> PriceBook:
    """The packaged book: list prices of widely used models, from LiteLLM (MIT, see books/)."""
    return load_book((files("sluice.metering") / "books" / "default.json").read_text("utf-8"))


def subset(book: PriceBook, models: Iterable[str], book_id: str) -> PriceBook:
    """A book of the entries with these model keys only, with all tools and contracts.

    Raises PriceBookError naming every key that the book lacks.
    """
    wanted = set(models)
    if missing := sorted(wanted - {entry.model for entry in book.entries}):
        raise PriceBookError(
            Fault(0, "", f"{model} is not in price book {book.book_id}") for model in missing
        )
    chosen = tuple(entry for entry in book.entries if entry.model in wanted)
    return replace(book, book_id=book_id, entries=chosen)


def _content(book: PriceBook) -> dict[str, Any]:
    lists = {
        "tools": [_tool_fields(tool) for tool in book.tools],
        "contracts": [_contract_fields(contract) for contract in book.contracts],
    }
    return {
        "book_id": book.book_id,
        "currency": book.currency,
        "source": book.source,
        "licence": book.licence,
        "entries": [_entry_fields(entry) for entry in book.entries],
        **{name: listed for name, listed in lists.items() if listed},
    }


def _order(item: PriceEntry | ToolPrice | Contract) -> tuple[str, str, str, int]:
    if isinstance(item, ToolPrice):
        names = (item.tool_name, item.tool_server)
    else:
        names = (item.model, item.provider)
    return names[0] or "", names[1] or "", item.tenant_id or "", start_of(item)


def _entry_fields(entry: PriceEntry) -> dict[str, Any]:
    tiers = [_tier_fields(tier) for tier in entry.tiers]
    return _stated(entry, "model", "provider") | {"tiers": tiers}


def _tool_fields(tool: ToolPrice) -> dict[str, Any]:
    return _stated(tool, "tool_name", "tool_server") | {"rates_pusd": dict(tool.rates_pusd)}


def _contract_fields(contract: Contract) -> dict[str, Any]:
    return _stated(contract, "model", "provider") | {"multiplier": contract.text}


def _stated(item: PriceEntry | ToolPrice | Contract, *names: str) -> dict[str, Any]:
    fields = {n: getattr(item, n) for n in (*names, "tenant_id", "effective_from", "effective_to")}
    return {name: value for name, value in fields.items() if value is not None}


def _tier_fields(tier: Tier) -> dict[str, Any]:
    fields = {**tier._asdict(), "rates_pusd": dict(tier.rates_pusd)}
    return {name: value for name, value in fields.items() if value not in (STANDARD, 0)}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _version(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:16]
