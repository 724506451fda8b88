"""Rows into ClickHouse: batches of columns, converted by the table's own types.

A batch that was stored may be stored again: the tables keep one row per identity.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.client import Client

from sluice.errors import OutsideError, SluiceError
from sluice.settings import Settings
from sluice.warehouse.arrow_types import Column, column
from sluice.warehouse.client import (
    UNKNOWN_DATABASE,
    UNKNOWN_TABLE,
    WarehouseError,
    connect,
    translated,
)

_GENERATION_BITS = 48
# Usage comes once, but for resends: looking for rows that replace each other within a batch would
# take ClickHouse three times as long as all the rest. Merges and FINAL do it anyway.
_INSERT: Mapping[str, dict[str, Any]] = MappingProxyType(
    {"usage_events": {"optimize_on_insert": 0}}
)


class Writer:
    """Inserts batches; connects at the first one and again after the server was away.

    Every method raises OutsideError when the same call may succeed later: the server is away or
    busy, or its tables are older than this program (`sluice migrate`).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connected: Client | None = None
        self._columns: dict[str, dict[str, Column]] = {}

    def insert_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store records that all have the same fields; returns their number."""
        return self.insert_batch(table, rows) if rows else 0

    def insert(self, table: str, columns: Mapping[str, Sequence[Any]]) -> int:
        """Store columns of equal length; columns left out take their defaults.

        Instants are µs UTC, maps are lists of {key, value}. Raises SluiceError naming the column
        for a value that does not fit.
        """
        return self.insert_batch(table, columns=[columns])

    def insert_batch(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]] = (),
        columns: Sequence[Mapping[str, Sequence[Any] | pa.Array]] = (),
    ) -> int:
        """Store records and columns of the same fields as one batch; returns the number of rows."""
        pieces = [*columns, _pivoted(table, rows)] if rows else list(columns)
        batch = self._batch(table, [self._piece(table, piece) for piece in pieces])
        client = self._client()
        with self._table(table):
            client.insert_arrow(table, batch, settings=_INSERT.get(table))
        return int(batch.num_rows)

    def _piece(self, table: str, columns: Mapping[str, Sequence[Any] | pa.Array]) -> pa.Table:
        arrays = [self._array(table, name, values) for name, values in columns.items()]
        return pa.table(arrays, names=list(columns))

    def _batch(self, table: str, pieces: Sequence[pa.Table]) -> pa.Table:
        """All pieces as one, without the columns that say nothing."""
        names = pieces[0].column_names
        if any(set(piece.column_names) != set(names) for piece in pieces):
            raise SluiceError(f"rows for {table} differ in their fields")
        whole = pa.concat_tables([piece.select(names) for piece in pieces])
        types = self._types(table)
        idle = [name for name in whole.column_names if types[name].is_idle(whole[name])]
        if len(idle) < whole.num_columns:
            whole = whole.drop_columns(idle)
        return whole.unify_dictionaries().combine_chunks()

    def positions(self) -> dict[tuple[str, int], str]:
        """Stored state per (topic, partition)."""
        sql = "SELECT topic, partition, state FROM sink_positions FINAL"
        client = self._client()
        with self._table("sink_positions"):
            rows = client.query(sql).result_rows
        return {(topic, partition): state for topic, partition, state in rows}

    def save_positions(self, states: Mapping[tuple[str, int], str]) -> None:
        """Store the state per (topic, partition): a JSON object with `next_offset`.

        A position before the stored one changes nothing.
        """
        rows = [self._position(*place, state) for place, state in states.items()]
        self.insert_rows("sink_positions", rows)

    def _position(self, topic: str, partition: int, state: str) -> dict[str, Any]:
        offset = json.loads(state)["next_offset"]
        return {
            "topic": topic,
            "partition": partition,
            "next_offset": offset,
            "state": state,
            "updated_at": time.time_ns() // 1000,
            "version": (self._settings.topic_generation << _GENERATION_BITS) + offset,
        }

    def close(self) -> None:
        """Give the connection back."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def _client(self) -> Client:
        if self._connected is None:
            self._connected = connect(self._settings, database=None)
            self._connected.database = self._settings.clickhouse_database
        return self._connected

    def _array(self, table: str, name: str, values: Sequence[Any] | pa.Array) -> pa.Array:
        types = self._types(table)
        if name not in types:
            # Read again next time: someone may have migrated.
            del self._columns[table]
            raise OutsideError(f"table {table} has no column {name}; run `sluice migrate`")
        try:
            return types[name].sent(types[name].array(values))
        except ValueError as error:
            raise SluiceError(f"column {name} of {table}: {error}") from error

    def _types(self, table: str) -> dict[str, Column]:
        if table not in self._columns:
            client = self._client()
            with self._table(table):
                described = client.query(f"DESCRIBE TABLE {table}").result_rows
            self._columns[table] = {row[0]: column(row[1], row[2]) for row in described}
        return self._columns[table]

    @contextmanager
    def _table(self, table: str) -> Iterator[None]:
        """The driver's errors become ours; a missing table is forgotten, it may come back."""
        try:
            with translated(self._settings):
                yield
        except WarehouseError as error:
            if error.code not in (UNKNOWN_DATABASE, UNKNOWN_TABLE):
                raise
            self._columns.pop(table, None)
            raise OutsideError(f"table {table} is missing; run `sluice migrate`") from error


def _pivoted(table: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = list(rows[0])
    try:
        columns = {name: [row[name] for row in rows] for name in names}
    except KeyError as error:
        raise SluiceError(f"a row for {table} lacks the field {error}") from error
    if any(len(row) != len(names) for row in rows):
        raise SluiceError(f"rows for {table} differ in their fields")
    return columns
