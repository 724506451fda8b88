"""What must be there after everything that went wrong: counted by the oracle from the input."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sluice.errors import OutsideError, WireError
from sluice.metering.baselines import Baseline
from sluice.runtime.auditing import run_audit
from sluice.runtime.references import read_references
from sluice.settings import Settings
from sluice.warehouse.client import query_text
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import Scanned, committed_records
from tests.builders import FakeReferences, partition
from tests.faults.feeder import Feeder
from tests.faults.pipeline import Pipeline
from tests.laws.oracle import Arrival, Oracle, Rows
from tests.laws.streams import BOOK, IDENTITY, WORLD, _norms

_SETTLE_S = 150.0
_NAMELESS = {"sources": ("version",), "cohorts": ("version", "watermark")}


def compare(pipeline: Pipeline, feeder: Feeder) -> dict[str, int]:
    """Let everything end, assert that nothing differs, and return what was counted."""
    feeder.finish()
    for seconds in (7200, 120, 60, 60):
        feeder.pass_time(seconds)
    settings = pipeline.settings
    _await_applied(settings)
    records = list(committed_records(settings, topics(settings).usage))
    oracles = _oracles(settings, records)
    applied = [a for oracle in oracles for a in oracle.applied]
    assert len(applied) == feeder.unique, "the broker lost what it had acknowledged"
    _rows_equal(settings, oracles)
    decisions = _decisions_equal(settings, records)
    letters = _dead_letters_equal(settings, records, feeder)
    audit = run_audit(settings, timeout_s=_SETTLE_S)
    assert audit.differences == []
    assert list(audit.holes) == []
    _stored_equal(settings, oracles)
    return {
        "records": len(records), "events": len(applied), "decisions": decisions,
        "dead_letters": letters, "ledgers": audit.ledgers,
        "cost_pusd": sum(a.cost or 0 for a in applied),
    }  # fmt: skip


def _await_applied(settings: Settings) -> None:
    """Wait until every partition's marker covers its input: nothing is published after that."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        marks = _marks(settings)
        ends = Counter[int]()
        for record in committed_records(settings, topics(settings).usage):
            ends[record.partition] = record.offset + 1
        if all(marks.get(number) == end for number, end in ends.items()):
            return
        assert time.monotonic() < deadline, f"applied up to {marks}, input up to {dict(ends)}"
        time.sleep(1)


def _marks(settings: Settings) -> dict[int, int]:
    from sluice.runtime.checkpoint import MARKER_KEY, _decode

    return {
        record.partition: _decode(record.value or b"").next_offset
        for record in committed_records(settings, topics(settings).meter_state)
        if record.key == MARKER_KEY
    }


def _oracles(settings: Settings, records: Iterable[Scanned]) -> list[Oracle]:
    held = read_references(settings)
    versions = {r.version: _norms(r) for r in held.values() if isinstance(r, Baseline)}
    world = replace(WORLD, baselines=versions)
    oracles = [Oracle(world, number) for number in range(settings.partitions)]
    for record in records:
        oracles[record.partition].take([_arrival(record)])
    return oracles


def _arrival(record: Scanned) -> Arrival:
    name, fields = "other", dict[str, Any]()
    try:
        kind, fields = decode(record.value or b"")
    except WireError:
        kind = ""
    if kind == "UsageEvent":
        name = "usage"
    elif kind == "Activate" and fields["kind"] == "baseline":
        name = "baseline"
    elif kind == "Activate" and fields["version"] == BOOK.version:
        name = "book"
    return Arrival(record.offset, record.timestamp * 1000, name, fields)


def _newest(settings: Settings, topic: str, kind: str) -> Rows:
    found: Rows = {}
    for record in committed_records(settings, topic):
        if record.value:
            row = decode(record.value)[1]
            key = tuple(row[name] for name in IDENTITY[kind])
            if kind == "cohorts":
                key = (row["source_partition"], *key)
            assert key not in found or found[key]["version"] < row["version"], f"{kind} {key}"
            found[key] = {k: v for k, v in row.items() if k not in _NAMELESS.get(kind, ())} | (
                {"version": row["version"]}
            )
    return found


def _rows_equal(settings: Settings, oracles: list[Oracle]) -> None:
    names = topics(settings)
    wanted: dict[str, Rows] = {
        "windows": {k: v for o in oracles for k, v in o.windows().items()},
        "tasks": {k: v for o in oracles for k, v in o.tasks().items()},
        "sources": {k: v for o in oracles for k, v in o.source_rows().items()},
        "cohorts": {(o.partition, *k): v for o in oracles for k, v in o.cohort_rows().items()},
    }
    written = {"windows": names.windows, "tasks": names.tasks, "sources": names.sources,
               "cohorts": names.partials}  # fmt: skip
    for kind, rows in wanted.items():
        found = _newest(settings, written[kind], kind)
        assert found.keys() == rows.keys(), kind
        for key, row in rows.items():
            dropped = _NAMELESS.get(kind, ())
            seen = {k: v for k, v in found[key].items() if k not in dropped}
            assert seen == {k: v for k, v in row.items() if k not in dropped}, f"{kind} {key}"


def _decisions_equal(settings: Settings, records: list[Scanned]) -> int:
    """Every decision of an undisturbed run through the pure core, once, with the same content."""
    references = FakeReferences()
    references.held = dict(read_references(settings))
    parts = [partition(references, number) for number in range(settings.partitions)]
    for record in records:
        assert parts[record.partition].apply([record]) == 1
    outs = [out for part in parts for out in part.take() if out.topic.endswith("control.v1")]
    wanted = _decisions(out.value for out in outs)
    found = _decisions(r.value for r in committed_records(settings, topics(settings).control))
    assert Counter(d["decision_id"] for d in found) == Counter(d["decision_id"] for d in wanted)
    by_id = {decision["decision_id"]: decision for decision in wanted}
    assert [d for d in found if d != by_id[d["decision_id"]]] == []
    return len(found)


def _decisions(values: Iterable[bytes | None]) -> list[dict[str, Any]]:
    decoded = [decode(value) for value in values if value]
    return [
        {k: v for k, v in fields.items() if k != "epoch"}  # it counts owners
        for name, fields in decoded
        if name == "Decision"
    ]


def _dead_letters_equal(settings: Settings, records: list[Scanned], feeder: Feeder) -> int:
    """Every record that breaks its contract is kept once, whole, with its position."""
    wanted = Counter[tuple[bytes, ...]]()
    for record in records:
        try:
            decode(record.value or b"")
        except WireError:
            wanted[str(record.partition).encode(), str(record.offset).encode()] += 1
    found = Counter[tuple[bytes, ...]]()
    for letter in committed_records(settings, topics(settings).dlq):
        headers = dict(letter.headers)
        found[headers["partition"], headers["offset"]] += 1
    assert found == wanted
    assert wanted.total() == feeder.poison
    return wanted.total()


def _stored_equal(settings: Settings, oracles: list[Oracle]) -> None:
    """Events and window rows in ClickHouse add up to what the oracle counted."""
    wanted = [
        sum(len(o.applied) for o in oracles),
        sum(a.cost or 0 for o in oracles for a in o.applied),
        sum(len(o.rows) for o in oracles),
    ]
    query = (
        "SELECT (SELECT count() FROM usage_events FINAL),"
        " (SELECT sum(toInt128(cost_pusd)) FROM usage_windows FINAL),"
        " (SELECT count() FROM usage_windows FINAL)"
    )
    deadline = time.monotonic() + _SETTLE_S
    while True:
        try:
            answer = query_text(settings, query, "TabSeparated").decode()
            found = [int(n) for n in answer.split()]
        except OutsideError:
            found = []
        if found == wanted:
            return
        assert time.monotonic() < deadline, f"ClickHouse has {found}, the oracle {wanted}"
        time.sleep(1)
