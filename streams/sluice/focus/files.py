"""FOCUS files: CSV and Parquet, written row by row and read back as cells.

In Parquet numbers are decimals and instants are timestamps in UTC, as the specification types them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from sluice.focus.cells import text_of
from sluice.focus.columns import COLUMNS, Column
from sluice.focus.rows import FocusRow

Format = Literal["csv", "parquet"]
_BATCH_ROWS = 10_000
_NAMES = [column.name for column in COLUMNS]


def write_csv(rows: Iterable[FocusRow], out: TextIO) -> int:
    """Write a header and all rows; returns the number of rows."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_NAMES)
    count = 0
    for row in rows:
        writer.writerow([text_of(row[name]) for name in _NAMES])
        count += 1
    return count


def write_parquet(rows: Iterable[FocusRow], path: Path) -> int:
    """Write a Parquet file; returns the number of rows."""
    schema = pa.schema([pa.field(c.name, _arrow_type(c), c.nullable) for c in COLUMNS])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(rows):
            columns = {name: [row[name] for row in batch] for name in _NAMES}
            writer.write_table(pa.table(columns, schema=schema))
            count += len(batch)
    return count


def read_cells(path: Path, format: Format) -> tuple[list[str], Iterator[Mapping[str, str]]]:
    """The column names of a file and its rows as CSV cells."""
    if format == "parquet":
        return _parquet_cells(path)
    with path.open(newline="", encoding="utf-8") as file:
        names = next(csv.reader(file), [])
    return names, _csv_cells(path)


def _csv_cells(path: Path) -> Iterator[Mapping[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _parquet_cells(path: Path) -> tuple[list[str], Iterator[Mapping[str, str]]]:
    file = pq.ParquetFile(path)
    rows = (row for batch in file.iter_batches(_BATCH_ROWS) for row in batch.to_pylist())
    return list(file.schema_arrow.names), (_texts(row) for row in rows)


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    in_utc = {k: v.astimezone(UTC) if hasattr(v, "astimezone") else v for k, v in row.items()}
    return {name: text_of(value) for name, value in in_utc.items()}


def _arrow_type(column: Column) -> pa.DataType:
    if column.kind == "decimal":
        return pa.decimal128(38, column.places)
    if column.kind == "time":
        return pa.timestamp("us", "UTC")
    return pa.string()


def _batches(rows: Iterable[FocusRow]) -> Iterator[list[FocusRow]]:
    batch: list[FocusRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
