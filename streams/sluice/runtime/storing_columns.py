"""From consumed records to columns: the same rows as `storing` gives, many at a time.

Usage between two activations is priced as one run. Whatever does not follow from simple rules is
converted record by record beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from sluice.metering.baselines import Baseline
from sluice.metering.columnar.prices import Prices
from sluice.metering.prices import PriceBook
from sluice.runtime.governance import ReferenceStore
from sluice.runtime.outputs import Record
from sluice.runtime.storing import Position, Rows, Storing
from sluice.runtime.usage_columns import Arrays, Place, Run, usage_columns
from sluice.wire.codec import headers
from sluice.wire.column_types import Ints, Items
from sluice.wire.columns import is_readable, read
from sluice.wire.topics import Topics

_RUN_BYTES = 2**26
# Below this the columns' own cost is more than they save.
_FEWEST = 64
# Broker times (ms) beyond this are nonsense that no column of µs could hold.
_LATEST_MS = 2**52
_ACTIVATE = headers("Activate")


class Taken(NamedTuple):
    """What is to be stored, per table: rows one by one and columns of many rows."""

    rows: Rows
    columns: dict[str, list[Arrays]]

    @property
    def size(self) -> int:
        """Number of rows."""
        listed = sum(map(len, self.rows.values()))
        return listed + sum(_length(piece) for pieces in self.columns.values() for piece in pieces)

    def add(self, more: Taken) -> None:
        """Add what is to be stored as well."""
        for table, rows in more.rows.items():
            self.rows[table] += rows
        for table, pieces in more.columns.items():
            self.columns[table] += pieces


def nothing_taken() -> Taken:
    """An empty one, to be added to."""
    return Taken(defaultdict(list), defaultdict(list))


class ColumnStoring:
    """Turns records of all stored topics into rows and columns per table."""

    def __init__(self, topics: Topics, references: ReferenceStore, generation: int) -> None:
        self._storing = Storing(topics, references, generation)
        self._usage_topic = topics.usage
        self._rows_of = {
            topics.windows: ("usage_windows", "WindowRow"),
            topics.tasks: ("usage_tasks", "TaskRow"),
            topics.sources: ("usage_sources", "SourceRow"),
            topics.budgets: ("budget_ledgers", "BudgetRow"),
        }
        self._prices: dict[str | None, Prices] = {}

    @property
    def stored_topics(self) -> list[str]:
        """Topics that the sink consumes."""
        return self._storing.stored_topics

    @property
    def waiting_for(self) -> tuple[str, str, str] | None:
        """The version that has not arrived, where not all records were taken."""
        return self._storing.waiting_for

    def take(
        self, topic: str, partition: int, records: Sequence[Record], position: Position
    ) -> tuple[Taken, int]:
        """What consecutive records store; the rest is as in `Storing.rows`."""
        taken = nothing_taken()
        if topic == self._usage_topic:
            return taken, self._take_usage(partition, records, position, taken)
        if topic not in self._rows_of or len(records) < _FEWEST:
            return taken, self._one_by_one(topic, partition, records, position, taken)
        self._take_rows(topic, partition, records, taken)
        position.next_offset = records[-1].offset + 1
        return taken, len(records)

    def _one_by_one(
        self, topic: str, partition: int, records: Sequence[Record], position: Position,
        taken: Taken,
    ) -> int:  # fmt: skip
        rows, done = self._storing.rows(topic, partition, records, position)
        taken.add(Taken(rows, {}))
        return done

    def _take_rows(
        self, topic: str, partition: int, records: Sequence[Record], taken: Taken
    ) -> None:
        """Rows that are stored as they were published."""
        table, name = self._rows_of[topic]
        readable = [place for place, r in enumerate(records) if is_readable(r.value, name)]
        columns, whole = read(name, [records[place].value or b"" for place in readable])
        chosen = np.flatnonzero(whole)
        if len(chosen):
            pieces = columns if whole.all() else {n: c.take(chosen) for n, c in columns.items()}
            taken.columns[table].append(
                {n: c.array(len(chosen)) if isinstance(c, Items) else c.array()
                 for n, c in pieces.items()}
            )  # fmt: skip
        for place in _others(len(records), np.array(readable, dtype=np.int64)[chosen]):
            self._one_by_one(topic, partition, [records[place]], Position(0), taken)

    # ---- usage

    def _take_usage(
        self, partition: int, records: Sequence[Record], position: Position, taken: Taken
    ) -> int:
        done = 0
        while done < len(records):
            end = _run_end(records, done)
            if end - done < _FEWEST:
                end = max(end, done + 1)
                run = records[done:end]
                passed = self._one_by_one(self._usage_topic, partition, run, position, taken)
                if passed < len(run):
                    return done + passed
            elif not self._storing.is_at_hand(records[done], position):
                return done
            else:
                self._take_run(partition, records[done:end], position, taken)
            done = end
        return done

    def _take_run(
        self, partition: int, records: Sequence[Record], position: Position, taken: Taken
    ) -> None:
        """Records between two activations."""
        broker = np.array([record.timestamp for record in records], dtype=np.int64) * 1000
        times = np.maximum.accumulate(np.maximum(broker, position.time))
        readable = np.array(
            [n for n, record in enumerate(records) if is_readable(record.value)], dtype=np.int64
        )
        chosen = [records[place] for place in readable.tolist()]
        run = Run(
            [record.value or b"" for record in chosen], [record.key for record in chosen],
            np.array([record.offset for record in chosen], dtype=np.int64),
            times[readable], broker[readable],
        )  # fmt: skip
        book, baseline = self._in_force(position)
        place = Place(partition, self._storing.version_base)
        arrays, left = usage_columns(run, place, self._prices_of(book), baseline)
        if len(left) < len(readable):
            taken.columns["usage_events"].append(arrays)
        converted = np.setdiff1d(readable, readable[left], assume_unique=True)
        for index in _others(len(records), converted):
            at = msgspec.structs.replace(position, time=int(times[index]))
            self._one_by_one(self._usage_topic, partition, [records[index]], at, taken)
        position.time = int(times[-1])
        position.next_offset = records[-1].offset + 1

    def _in_force(self, position: Position) -> tuple[PriceBook | None, Baseline | None]:
        book: PriceBook | None = self._storing.in_force("price_book", position)
        baseline: Baseline | None = self._storing.in_force("baseline", position)
        return book, baseline

    def _prices_of(self, book: PriceBook | None) -> Prices:
        version = None if book is None else book.version
        if version not in self._prices:
            self._prices = {version: Prices(book)}  # partitions switch at about the same time
        return self._prices[version]


def _others(count: int, chosen: Ints) -> list[int]:
    others: list[int] = np.setdiff1d(np.arange(count), chosen, assume_unique=True).tolist()
    return others


def _length(piece: Arrays) -> int:
    return len(next(iter(piece.values())))


def _run_end(records: Sequence[Record], start: int) -> int:
    """Where the run that begins at `start` ends: before an activation, or where it gets large."""
    size = 0
    for place in range(start, len(records)):
        record = records[place]
        value = record.value or b""
        size += len(value)
        strange = abs(record.timestamp) > _LATEST_MS
        if strange or value.startswith(_ACTIVATE) or (size > _RUN_BYTES and place > start):
            return place
    return len(records)
