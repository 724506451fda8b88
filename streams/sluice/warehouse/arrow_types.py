"""Arrow types of ClickHouse columns, and values of our records as Arrow arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

_TYPE = re.compile(r"(?P<name>\w+)(?:\((?P<inside>.*)\))?", re.DOTALL)
_FIELD = re.compile(r"`?(?P<name>\w+)`? (?P<type>.+)", re.DOTALL)
_INSTANT = re.compile(r"DateTime64\(6(?:, 'UTC')?\)")
_NAMES = ("LowCardinality(String)", "LowCardinality(Nullable(String))")
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
    """How values of one ClickHouse column are made; `is_map` takes records of key and value.

    `is_names`: few different texts, which ClickHouse takes faster as codes. `is_empty_by_default`:
    a column of nulls or of empty lists may as well be left out.
    """

    type: pa.DataType
    nullable: bool
    is_map: bool
    is_names: bool = False
    is_empty_by_default: bool = False

    def array(self, values: Sequence[Any] | pa.Array) -> pa.Array:
        """`values` as Arrow; ValueError for one that does not fit, null where none may be."""
        try:
            array = self._made(values)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise ValueError(str(error)) from error
        if array.null_count and not self.nullable:
            raise ValueError(f"{array.null_count} null(s) where the table takes none")
        return array

    def _made(self, values: Sequence[Any] | pa.Array) -> pa.Array:
        if isinstance(values, pa.DictionaryArray) and self.is_names:
            return values
        if isinstance(values, pa.Array):
            return values if values.type == self.type else self._cast(values)
        if self.is_map:
            values = [[(entry["key"], entry["value"]) for entry in value] for value in values]
        return pa.array(values, type=self.type)

    def _cast(self, values: pa.Array) -> pa.Array:
        if self.is_map:
            key, value = (values.values.field(name) for name in ("key", "value"))
            return pa.MapArray.from_arrays(values.offsets, key, value)
        return values.cast(self.type)

    def sent(self, array: pa.Array) -> pa.Array:
        """The same values as they are sent: names as codes."""
        return array.dictionary_encode() if self.is_names else array

    def is_idle(self, array: pa.ChunkedArray) -> bool:
        """Whether the table's default says the same as all of these values."""
        if not self.is_empty_by_default:
            return False
        if pa.types.is_list(self.type) or pa.types.is_map(self.type):
            return all(len(chunk.flatten()) == 0 for chunk in array.chunks)
        return bool(array.null_count == len(array))


def column(clickhouse_type: str, default_kind: str = "") -> Column:
    """The column for a type as DESCRIBE TABLE spells it; ValueError for one that is not in use.

    `default_kind` is DESCRIBE TABLE's too: empty where the column has the default of its type.
    """
    bare = clickhouse_type.removeprefix("LowCardinality(")
    # A null tuple becomes a tuple of nulls: ClickHouse has no null tuples in older versions.
    nullable = bare.startswith(("Nullable(", "Tuple("))
    return Column(
        arrow_type(clickhouse_type),
        nullable,
        is_map=clickhouse_type.startswith("Map("),
        is_names=clickhouse_type in _NAMES,
        is_empty_by_default=not default_kind and bare.startswith(("Nullable(", "Array(")),
    )


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
