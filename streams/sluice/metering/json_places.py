"""JSON for people: where each value stands in the text, and which names stand twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\n\r]*")


class JsonObject(dict[str, Any]):
    """A JSON object that remembers names standing twice in it."""

    repeated: tuple[str, ...] = ()


def parse(text: str) -> Any:
    """Value of a JSON text, fractions as exact Decimal.

    Raises ValueError (JSONDecodeError where the place is known) for anything that is not JSON, NaN
    and Infinity included, and RecursionError for nesting beyond the interpreter's limit.
    """
    return json.loads(
        text, parse_float=_fraction, parse_constant=_refuse, object_pairs_hook=_object
    )


def dotted(path: Path) -> str:
    """A path as people write it: entries[3].rates_pusd.input."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".")


def line_finder(text: str) -> Callable[[Path], int]:
    """A function from a path in a valid JSON text to its line, or to that of its nearest parent."""
    offsets: dict[Path, int] = {}
    _walk(text, _skip(text, 0), (), offsets)

    def line(path: Path) -> int:
        while path not in offsets:
            path = path[:-1]
        return text.count("\n", 0, offsets[path]) + 1

    return line


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    result = JsonObject(pairs)
    if len(result) < len(pairs):
        again = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        result.repeated = tuple(again)
    return result


def _fraction(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation as error:
        raise ValueError(f"{digits} is out of range") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _walk(text: str, at: int, path: Path, offsets: dict[Path, int]) -> int:
    """Note where the value at `at` and all within it begin; return the offset after it."""
    offsets.setdefault(path, at)
    if text[at] not in "{[":
        return json.JSONDecoder().raw_decode(text, at)[1]
    closing, place = ("}", None) if text[at] == "{" else ("]", 0)
    at = _skip(text, at + 1)
    while text[at] != closing:
        name: str | int
        if place is None:
            begin, (name, at) = at, json.JSONDecoder().raw_decode(text, at)
            offsets.setdefault((*path, name), begin)
            at = _skip(text, _skip(text, at) + 1)
        else:
            name, place = place, place + 1
        at = _skip(text, _walk(text, at, (*path, name), offsets))
        if text[at] == ",":
            at = _skip(text, at + 1)
    return at + 1
