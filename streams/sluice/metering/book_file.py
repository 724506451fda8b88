"""The file format of price books, read with every fault and its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sluice.errors import ConfigError
from sluice.metering.json_places import JsonObject, Path, dotted, line_finder, parse
from sluice.metering.rates import RATE_CLASSES, STANDARD, PriceEntry, Tier
from sluice.money import INT64_MAX

MAX_NAME = 512

_Found = tuple[Path, str]
_Slot = tuple[str | None, str]


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
    """A well-formed book file: its own fields, its entries, and a way to point into it."""

    head: dict[str, Any]
    entries: tuple[PriceEntry, ...]
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
    _raise_at(text, [(("entries", int(f.path)), f.message) for f in overlaps(entries)])
    return BookText({k: v for k, v in data.items() if k != "entries"}, entries, text)


def _raise_at(text: str, faults: list[_Found]) -> None:
    if faults:
        line = line_finder(text)
        raise PriceBookError(sorted(Fault(line(p), dotted(p), message) for p, message in faults))


def overlaps(entries: Iterable[PriceEntry]) -> Iterator[Fault]:
    """A fault per entry that holds together with another of its model and provider."""
    same: dict[_Slot, list[tuple[int, PriceEntry]]] = defaultdict(list)
    for place, entry in enumerate(entries):
        same[entry.provider, entry.model].append((place, entry))
    for group in same.values():
        group.sort(key=lambda item: start_of(item[1]))
        for (_, first), (place, second) in pairwise(group):
            if first.effective_to is None or first.effective_to > start_of(second):
                yield Fault(0, str(place), f"{second.model} of {second.provider or 'any provider'} "
                            "has another price at the same time")  # fmt: skip


def start_of(entry: PriceEntry) -> int:
    """Instant (µs UTC) from which an entry holds; far in the past where it states none."""
    return -INT64_MAX if entry.effective_from is None else entry.effective_from


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
    effective_from: _Instant = None
    effective_to: _Instant = None
    tiers: Annotated[list[_TierFile], Field(min_length=1)]


class _BookFile(_Strict):
    book_id: _Text
    currency: Literal["USD"] = "USD"
    source: str
    licence: str
    version: str | None = None
    entries: list[_EntryFile]


_BOOK_FILE = TypeAdapter(_BookFile)


def _schema_faults(data: Any) -> list[_Found]:
    try:
        _BOOK_FILE.validate_python(data)
    except ValidationError as error:
        found = ((tuple(p for p in e["loc"] if p != "[key]"), e["msg"]) for e in error.errors())
        return [(path, message[0].lower() + message[1:]) for path, message in found]
    return [
        (("entries", place, *path), message)
        for place, fields in enumerate(data["entries"])
        for path, message in _entry_faults(fields)
    ]


def _entry_faults(fields: dict[str, Any]) -> Iterator[_Found]:
    first, last = fields.get("effective_from"), fields.get("effective_to")
    if first is not None and last is not None and last <= first:
        yield ("effective_to",), "this must be later than effective_from"
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
    return PriceEntry(fields["model"], fields.get("provider"), tiers,
                      fields.get("effective_from"), fields.get("effective_to"))  # fmt: skip


def _repeated(value: Any, path: Path) -> Iterator[_Found]:
    members: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, JsonObject):
        yield from (((*path, name), "this name stands twice") for name in value.repeated)
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, member in members:
        yield from _repeated(member, (*path, name))
