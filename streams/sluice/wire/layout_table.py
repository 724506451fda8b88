"""The fields of a record schema as numbers, as the compiled loops need them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sluice.errors import ConfigError
from sluice.wire.column_types import Ints
from sluice.wire.read_loops import BOOLEAN, INT, LIST, LONG, TEXT

_KINDS = {"string": TEXT, "long": LONG, "int": INT, "boolean": BOOLEAN}


class Leaf(NamedTuple):
    """A single value: `slot` counts within texts or numbers, `known_slot` within optional numbers.

    `known_slot` is -1 where there is none.
    """

    name: str
    kind: int
    nullable: bool
    slot: int
    known_slot: int


class Listed(NamedTuple):
    """A list field, its `slot` among the lists, and what its entries hold."""

    name: str
    slot: int
    leaves: tuple[Leaf, ...]
    is_plain: bool  # of single values, in the field "value", not of records


class Table(NamedTuple):
    """A schema for Python and, row by row the same, for compiled loops.

    `fields` and `entries` have the columns kind, nullable, slot, known slot; `lists` the range of a
    list's own entries.
    """

    columns: dict[str, Leaf | Listed]
    listed: list[Listed]
    numbers: int
    optional_numbers: int
    texts: int
    fields: Ints
    entries: Ints
    lists: Ints


class _Slots:
    """Counts the columns of each sort."""

    def __init__(self) -> None:
        self.numbers = self.optional = self.texts = 0

    def leaf(self, name: str, kind: Any, path: str) -> Leaf:
        nullable = isinstance(kind, list)
        if nullable and (len(kind) != 2 or kind[0] != "null"):
            raise ConfigError(f"{path}: a union is to be null and one type, in this order")
        one = kind[1] if nullable else kind
        code = _KINDS.get(one) if isinstance(one, str) else None
        if code is None:
            said = one if isinstance(one, str) else one.get("type")
            raise ConfigError(f"{path}: columns hold no {said!r} here")
        if code == TEXT:
            self.texts += 1
            return Leaf(name, code, nullable, self.texts - 1, -1)
        self.numbers += 1
        self.optional += nullable
        return Leaf(name, code, nullable, self.numbers - 1, self.optional - 1 if nullable else -1)


def table_of(raw: dict[str, Any]) -> Table:
    """The table of a record schema without named references; ConfigError names what it cannot."""
    slots, lists, columns = _Slots(), list[Listed](), dict[str, Leaf | Listed]()
    for field in raw["fields"]:
        name, kind, path = field["name"], field["type"], f"{raw['name']}.{field['name']}"
        if isinstance(kind, dict) and kind["type"] == "array":
            lists.append(_listed(name, kind["items"], len(lists), path))
            columns[name] = lists[-1]
        else:
            columns[name] = slots.leaf(name, kind, path)
    entries = [leaf for of in lists for leaf in of.leaves]
    ends = np.cumsum([len(of.leaves) for of in lists], dtype=np.int64)
    ranges = np.stack([ends - [len(of.leaves) for of in lists], ends], axis=1).astype(np.int64)
    return Table(columns, lists, slots.numbers, slots.optional, slots.texts,
                 _rows(list(columns.values())), _rows(entries), ranges)  # fmt: skip


def _listed(name: str, items: Any, slot: int, path: str) -> Listed:
    slots = _Slots()
    is_plain = not isinstance(items, dict) or items["type"] != "record"
    fields = [{"name": "value", "type": items}] if is_plain else items["fields"]
    leaves = [slots.leaf(f["name"], f["type"], f"{path}[].{f['name']}") for f in fields]
    return Listed(name, slot, tuple(leaves), is_plain)


def _rows(columns: list[Leaf | Listed] | list[Leaf]) -> Ints:
    rows = [
        (LIST, 0, column.slot, -1) if isinstance(column, Listed) else column[1:]
        for column in columns
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), 4)
