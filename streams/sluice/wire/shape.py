"""Whether a value has the shape that a schema asks for, and if not, in which field.

The Avro library is lenient where we must not be: it cuts 1.5 to 1, takes True for 1, lets an `int`
leave 32 bits and drops fields that it does not know. No float may touch money, and a misspelt field
must not vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from reprlib import repr as short
from typing import Any

Check = Callable[[Any], None]


class ShapeError(ValueError):
    """A value does not fit; the text begins with the path of its field: ".units[0].value: ..."."""


def complete(raw: dict[str, Any]) -> Check:
    """A check of everything that the schema says about a record to be written.

    It raises ShapeError.
    """
    return _complete(raw, {})


def of_fields(raw: dict[str, Any]) -> dict[str, Check]:
    """A check for the value of each field of a schema; they raise ShapeError."""
    return _of_fields(raw, {})


def readable(raw: dict[str, Any]) -> Check | None:
    """A check of what the Avro reader leaves unchecked in a record, or None if that is nothing.

    An `int` has 32 bits, whatever the bytes said. It raises ShapeError.
    """
    return _readable(raw, {})


def _complete(kind: Any, records: dict[str, Check]) -> Check:
    if isinstance(kind, str):
        return records[kind] if kind in records else _LEAVES[kind]
    if isinstance(kind, list):
        return _optional(_complete(kind[1], records))
    if kind["type"] == "array":
        return _array(_complete(kind["items"], records))
    checks = _of_fields(kind, records)
    required = frozenset(field["name"] for field in kind["fields"] if "default" not in field)
    return records.setdefault(kind["name"], _record(checks, required))


def _of_fields(kind: Any, records: dict[str, Check]) -> dict[str, Check]:
    return {field["name"]: _complete(field["type"], records) for field in kind["fields"]}


def _readable(kind: Any, records: dict[str, Check | None]) -> Check | None:
    if isinstance(kind, str):
        return _int if kind == "int" else records.get(kind)
    if isinstance(kind, list):
        inner = _readable(kind[1], records)
        return _optional(inner) if inner else None
    if kind["type"] == "array":
        inner = _readable(kind["items"], records)
        return _array(inner) if inner else None
    found = [(field["name"], _readable(field["type"], records)) for field in kind["fields"]]
    checks = {name: check for name, check in found if check}
    return records.setdefault(kind["name"], _fields(checks) if checks else None)


def _record(checks: Mapping[str, Check], required: frozenset[str]) -> Check:
    def check(record: Any) -> None:
        if not isinstance(record, dict | Mapping):
            raise ShapeError(f": {short(record)} is not a record")
        name: Any = ""
        try:
            for name, value in record.items():
                checks[name](value)
        except KeyError:
            raise ShapeError(f".{name}: no such field") from None
        except ShapeError as error:
            raise ShapeError(f".{name}{error}") from None
        if not required <= record.keys():
            missing = ", ".join(sorted(required - record.keys()))
            raise ShapeError(f".{missing}: missing and without default")

    return check


def _fields(checks: Mapping[str, Check]) -> Check:
    pairs = tuple(checks.items())

    def check(record: Mapping[str, Any]) -> None:
        name = ""
        try:
            for name, fits in pairs:
                fits(record[name])
        except ShapeError as error:
            raise ShapeError(f".{name}{error}") from None

    return check


def _array(item: Check) -> Check:
    def check(values: Any) -> None:
        if not isinstance(values, list | tuple):
            raise ShapeError(f": {short(values)} is not a list")
        index = 0
        try:
            for index in range(len(values)):
                item(values[index])
        except ShapeError as error:
            raise ShapeError(f"[{index}]{error}") from None

    return check


def _optional(inner: Check) -> Check:
    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def _integer(bits: int) -> Check:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ShapeError(f": {short(value)} is not an integer of {bits} bits")

    return check


def _string(value: Any) -> None:
    if not isinstance(value, str):
        raise ShapeError(f": {short(value)} is not a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ShapeError(f": {short(value)} is not Unicode text") from None


def _boolean(value: Any) -> None:
    if value is not True and value is not False:
        raise ShapeError(f": {short(value)} is not true or false")


_int = _integer(32)
_LEAVES: dict[str, Check] = {
    "int": _int, "long": _integer(64), "string": _string, "boolean": _boolean,
}  # fmt: skip
