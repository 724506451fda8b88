"""The file format of price books, read with every fault and its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sluice.errors import ConfigError
from sluice.metering.classes import MEASURED_CLASSES, RATE_CLASSES, UNIT_CLASSES
from sluice.metering.contracts import MULTIPLIER, Contract
from sluice.metering.json_places import JsonObject, Path, dotted, line_finder, parse
from sluice.metering.rates import STANDARD, PriceEntry, Tier, ToolPrice, start_of
from sluice.money import INT64_MAX

MAX_NAME = 512

# Of the rate classes those that a call of a tool can have.
TOOL_CLASSES: tuple[str, ...] = ("tool_call", *UNIT_CLASSES, *MEASURED_CLASSES)

_Found = tuple[Path, str]
_Item = PriceEntry | ToolPrice | Contract


class Fault(NamedTuple):
    """What is wrong in a price book, and where; line 0 means the whole file."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = ", ".join(p for p in (f"line {self.line}" if self.line else "", self.path) if p)
        return f"{place}: {self.message}" if place else self.message


class PriceBookError(ConfigError):
    """A price book cannot be used; `faults` has every reason, nothing was applied."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        super().__init__(f"price book refused, {self.faults[0]}{more}")


@dataclass(frozen=True)
class BookText:
    """A well-formed book file: its own fields, what it lists, and a way to point into it."""

    head: dict[str, Any]
    entries: tuple[PriceEntry, ...]
    tools: tuple[ToolPrice, ...]
    contracts: tuple[Contract, ...]
    text: str

    def fault(self, path: Path, message: str) -> Fault:
        """A fault at a path of this file."""
        return Fault(line_finder(self.text)(path), dotted(path), message)


def read_book(text: str) -> BookText:
    """Read a price book file; its `version` stays unchecked.

    Raises PriceBookError with every fault, each with its line and path.
    """
    try:
        data = parse(text)
    except (ValueError, RecursionError) as error:
        message = f"this is not JSON ({getattr(error, 'msg', error)})"
        raise PriceBookError([Fault(getattr(error, "lineno", 0), "", message)]) from error
    _raise_at(text, [*_repeated(data, ()), *_schema_faults(data)])
    entries = tuple(_entry(fields) for fields in data["entries"])
    tools = tuple(_tool(fields) for fields in data.get("tools", ()))
    contracts = tuple(_contract(fields) for fields in data.get("contracts", ()))
    lists: dict[str, Sequence[_Item]] = {
        "entries": entries, "tools": tools, "contracts": contracts,
    }  # fmt: skip
    _raise_at(text, [((name, place), message) for name, items in lists.items()
                     for place, message in overlaps(items)])  # fmt: skip
    head = {name: value for name, value in data.items() if name not in lists}
    return BookText(head, entries, tools, contracts, text)


def _raise_at(text: str, faults: list[_Found]) -> None:
    if faults:
        line = line_finder(text)
        raise PriceBookError(sorted(Fault(line(p), dotted(p), message) for p, message in faults))


def overlaps(items: Iterable[_Item]) -> Iterator[tuple[int, str]]:
    """Place and fault of each item that holds together with another for the same."""
    same: dict[tuple[str | None, ...], list[tuple[int, _Item]]] = defaultdict(list)
    for place, item in enumerate(items):
        same[_slot(item)].append((place, item))
    for group in same.values():
        group.sort(key=lambda placed: start_of(placed[1]))
        for (_, first), (place, second) in pairwise(group):
            if first.effective_to is None or first.effective_to > start_of(second):
                yield place, f"{_title(second)} has another price at the same time"


def _slot(item: _Item) -> tuple[str | None, ...]:
    if isinstance(item, ToolPrice):
        return item.tenant_id, item.tool_server, item.tool_name
    return item.tenant_id, item.provider, item.model


def _title(item: _Item) -> str:
    tenant = f" for {item.tenant_id}" if item.tenant_id else ""
    if isinstance(item, ToolPrice):
        return f"{item.tool_name or 'any tool'} of {item.tool_server or 'any server'}{tenant}"
    return f"{item.model or 'any model'} of {item.provider or 'any provider'}{tenant}"


_Text = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
_Instant = Annotated[int, Field(ge=0, le=INT64_MAX)] | None
_Amount = Annotated[int, Field(ge=0, le=INT64_MAX)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _TierFile(_Strict):
    service_tier: Annotated[str, Field(max_length=64)] = STANDARD
    above_input_tokens: _Amount = 0
    rates_pusd: Annotated[dict[Literal[RATE_CLASSES], _Amount], Field(min_length=1)]  # type: ignore[valid-type]


class _EntryFile(_Strict):
    model: _Text
    provider: _Text | None = None
    tenant_id: _Text | None = None
    effective_from: _Instant = None
    effective_to: _Instant = None
    tiers: Annotated[list[_TierFile], Field(min_length=1)]


class _ToolFile(_Strict):
    tool_name: _Text | None = None
    tool_server: _Text | None = None
    tenant_id: _Text | None = None
    effective_from: _Instant = None
    effective_to: _Instant = None
    rates_pusd: Annotated[dict[Literal[TOOL_CLASSES], _Amount], Field(min_length=1)]  # type: ignore[valid-type]


class _ContractFile(_Strict):
    tenant_id: _Text
    provider: _Text | None = None
    model: _Text | None = None
    effective_from: _Instant = None
    effective_to: _Instant = None
    multiplier: str


class _BookFile(_Strict):
    book_id: _Text
    currency: Literal["USD"] = "USD"
    source: str
    licence: str
    version: str | None = None
    entries: list[_EntryFile]
    tools: list[_ToolFile] = []
    contracts: list[_ContractFile] = []


_BOOK_FILE = TypeAdapter(_BookFile)


def _schema_faults(data: Any) -> list[_Found]:
    try:
        _BOOK_FILE.validate_python(data)
    except ValidationError as error:
        found = ((tuple(p for p in e["loc"] if p != "[key]"), e["msg"]) for e in error.errors())
        return [(path, message[0].lower() + message[1:]) for path, message in found]
    return [
        ((name, place, *path), message)
        for name, check in _CHECKS.items()
        for place, fields in enumerate(data.get(name, ()))
        for path, message in check(fields)
    ]


def _interval_faults(fields: Mapping[str, Any]) -> Iterator[_Found]:
    first, last = fields.get("effective_from"), fields.get("effective_to")
    if first is not None and last is not None and last <= first:
        yield ("effective_to",), "this must be later than effective_from"


def _contract_faults(fields: Mapping[str, Any]) -> Iterator[_Found]:
    yield from _interval_faults(fields)
    if not MULTIPLIER.fullmatch(fields["multiplier"]):
        yield ("multiplier",), ("this must be a number below 1000 with at most nine decimals, "
                                'as a text such as "0.85"')  # fmt: skip


def _entry_faults(fields: Mapping[str, Any]) -> Iterator[_Found]:
    yield from _interval_faults(fields)
    seen: set[tuple[str, int]] = set()
    for place, tier in enumerate(fields["tiers"]):
        key = (tier.get("service_tier", STANDARD), tier.get("above_input_tokens", 0))
        if key in seen:
            yield ("tiers", place), "an earlier tier has this service_tier and above_input_tokens"
        seen.add(key)


def _entry(fields: dict[str, Any]) -> PriceEntry:
    tiers = tuple(
        Tier(t.get("service_tier", STANDARD), t.get("above_input_tokens", 0),
             MappingProxyType(dict(t["rates_pusd"])))
        for t in fields["tiers"]
    )  # fmt: skip
    return PriceEntry(fields["model"], fields.get("provider"), tiers, fields.get("effective_from"),
                      fields.get("effective_to"), fields.get("tenant_id"))  # fmt: skip


def _tool(fields: Mapping[str, Any]) -> ToolPrice:
    stated = {"tool_name": None, "tool_server": None, **fields}
    return ToolPrice(**stated | {"rates_pusd": MappingProxyType(dict(fields["rates_pusd"]))})


def _contract(fields: Mapping[str, Any]) -> Contract:
    return Contract(**{**fields, "multiplier": Decimal(fields["multiplier"])})


_CHECKS = {"entries": _entry_faults, "tools": _interval_faults, "contracts": _contract_faults}


def _repeated(value: Any, path: Path) -> Iterator[_Found]:
    members: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, JsonObject):
        yield from (((*path, name), "this name stands twice") for name in value.repeated)
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, member in members:
        yield from _repeated(member, (*path, name))
