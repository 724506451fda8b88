"""Golden payloads of providers and gateways, and ways to walk and change them.

`<format>.<case>.json` holds a line as `sluice emit --format <format>` takes it. Beside it stands
the event that has to come of it (`.event.json`), or the refusal (`.fault.json`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "unit" / "metering" / "adapters" / "payloads"
OUTCOMES = (".event", ".fault")

Place = tuple[str | int, ...]


class Payload(NamedTuple):
    """A golden payload by name, with its format and its line."""

    name: str
    format: str
    line: dict[str, Any]

    def expected(self, kind: str) -> dict[str, Any]:
        """What is to come of it: kind "event" or "fault"."""
        found: dict[str, Any] = json.loads((FOLDER / f"{self.name}.{kind}.json").read_text())
        return found


def payloads(kind: str) -> list[Payload]:
    """All payloads that become an event, or all that are refused."""
    names = sorted(p.name.removesuffix(f".{kind}.json") for p in FOLDER.glob(f"*.{kind}.json"))
    return [
        Payload(name, name.partition(".")[0], json.loads((FOLDER / f"{name}.json").read_text()))
        for name in names
    ]


class Node(NamedTuple):
    """A value in a payload, where it stands, and the names over it, attributes' keys among them."""

    place: Place
    names: tuple[str, ...]
    value: Any

    @property
    def name(self) -> str:
        """The nearest name over it."""
        return self.names[-1] if self.names else ""


def nodes(value: Any, place: Place = (), names: tuple[str, ...] = ()) -> Iterator[Node]:
    """Every value inside a payload, and the payload itself."""
    yield Node(place, names, value)
    if isinstance(value, dict):
        attribute = value.get("key") if set(value) == {"key", "value"} else None
        for key, held in value.items():
            own = () if key in ATTRIBUTE_KINDS else (str(attribute or key),)
            yield from nodes(held, (*place, key), names + own)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            yield from nodes(held, (*place, index), names)


# How OTLP says of which type a value is.
ATTRIBUTE_KINDS = frozenset({
    "stringValue", "intValue", "doubleValue", "boolValue", "arrayValue", "kvlistValue", "values",
})  # fmt: skip


def changed(line: dict[str, Any], places: list[Place],
            change: Callable[[Any], Any]) -> dict[str, Any]:  # fmt: skip
    """A copy of a line with the values at some places changed."""
    whole: dict[str, Any] = copy.deepcopy(line)
    for place in places:
        held: Any = whole
        for key in place[:-1]:
            held = held[key]
        held[place[-1]] = change(held[place[-1]])
    return whole
