"""Values of FOCUS columns as text, the way a CSV file has them, and back.

Numbers are plain decimals without exponent or sign of a positive value (NumericFormat), instants
are YYYY-MM-DDTHH:mm:ssZ (DateTimeFormat), null is an empty cell. Nothing passes through a float.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sluice.focus.columns import Column
from sluice.focus.rows import Value

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_INSTANT_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class CellError(ValueError):
    """A cell breaks the format of its column; `rule` is the specification's attribute."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{text!r} breaks {rule}")
        self.rule = rule


def text_of(value: Value) -> str:
    """A value as its cell."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        # One decimal stays: readers that guess types would take a column of whole numbers for
        # integers, where the specification wants decimals.
        whole, point, decimals = format(value, "f").partition(".")
        return f"{whole}.{decimals.rstrip('0') or '0'}" if point else whole
    if isinstance(value, datetime):
        return value.strftime(_INSTANT_FORMAT)
    return value


def value_of(column: Column, text: str) -> Value | dict[str, Any]:
    """The value in a cell, key-value columns as dictionaries; CellError where it breaks a rule."""
    if text == "":
        return None
    if column.kind == "decimal":
        if not _NUMBER.fullmatch(text):
            raise CellError("NumericFormat", text)
        return Decimal(text)
    if column.kind == "time":
        return _instant(text)
    if column.kind == "json":
        return _key_values(text)
    if text.isspace():
        raise CellError("StringHandling", text)
    return text


def _instant(text: str) -> datetime:
    try:
        return datetime.strptime(text, _INSTANT_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise CellError("DateTimeFormat", text) from error


def _key_values(text: str) -> dict[str, Any]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise CellError("KeyValueFormat", text) from error
    if text[:1] != "{" or len({key for key, _ in pairs}) != len(pairs):
        raise CellError("KeyValueFormat", text)
    if any(isinstance(value, list) for _, value in pairs):
        raise CellError("KeyValueFormat", text)
    return dict(pairs)
