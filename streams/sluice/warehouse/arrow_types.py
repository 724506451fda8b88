"""Arrow types of ClickHouse columns, and values of our records as Arrow arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

_TYPE = re.compile(r"(?P<name>\w+)(?:\((?P<inside>.*)\))?", re.DOTALL)
_FIELD = re.compile(r"`?(?P<name>\w+)`? (?P<type>.+)", re.DOTALL)
_INSTANT = re.compile(r"DateTime64\(6(?:, 'UTC')?\)")
_PLAIN: Mapping[str, Callable[[], pa.DataType]] = {
    "String": pa.string,
    "Bool": pa.bool_,
    "Int8": pa.int8,
    "Int16": pa.int16,
    "Int32": pa.int32,
    "Int64": pa.int64,
    "UInt8": pa.uint8,
    "UInt16": pa.uint16,
    "UInt32": pa.uint32,
    "UInt64": pa.uint64,
    "Float64": pa.float64,
}


class Column(NamedTuple):
    """How values of one ClickHouse column are made; `is_map` takes records of key and value."""

    type: pa.DataType
    nullable: bool
    is_map: bool

    def array(self, values: Sequence[Any]) -> pa.Array:
        """`values` as Arrow; ValueError for one that does not fit, null where none may be."""
        if self.is_map:
            values = [[(entry["key"], entry["value"]) for entry in value] for value in values]
        try:
            array = pa.array(values, type=self.type)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise ValueError(str(error)) from error
        if array.null_count and not self.nullable:
            raise ValueError(f"{array.null_count} null(s) where the table takes none")
        return array


def column(clickhouse_type: str) -> Column:
    """The column for a type as DESCRIBE TABLE spells it; ValueError for one that is not in use."""
    bare = clickhouse_type.removeprefix("LowCardinality(")
    # A null tuple becomes a tuple of nulls: ClickHouse has no null tuples in older versions.
    nullable = bare.startswith(("Nullable(", "Tuple("))
    return Column(arrow_type(clickhouse_type), nullable, clickhouse_type.startswith("Map("))


def arrow_type(clickhouse_type: str) -> pa.DataType:
    """The Arrow type that ClickHouse reads into `clickhouse_type`; instants are µs UTC."""
    if _INSTANT.fullmatch(clickhouse_type):
        return pa.timestamp("us", "UTC")
    match = _TYPE.fullmatch(clickhouse_type)
    name, inside = (match["name"], match["inside"]) if match else ("", None)
    if inside is None:
        if name not in _PLAIN:
            raise ValueError(f"no Arrow type for {clickhouse_type}")
        return _PLAIN[name]()
    return _nested(name, _arguments(inside), clickhouse_type)


def _nested(name: str, arguments: list[str], whole: str) -> pa.DataType:
    match name:
        case "LowCardinality" | "Nullable":
            return arrow_type(arguments[0])
        case "Array":
            return pa.list_(arrow_type(arguments[0]))
        case "Map":
            return pa.map_(arrow_type(arguments[0]), arrow_type(arguments[1]))
        case "Tuple":
            fields = [_FIELD.fullmatch(argument) for argument in arguments]
            return pa.struct([(f["name"], arrow_type(f["type"])) for f in fields if f])
        case _:
            raise ValueError(f"no Arrow type for {whole}")


def _arguments(inside: str) -> list[str]:
    """Parts between the commas that are not inside of parentheses."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(inside):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            parts.append(inside[start:place].strip())
            start = place + 1
    return [*parts, inside[start:].strip()]
