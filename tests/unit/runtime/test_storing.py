"""From records to ClickHouse rows: priced by what is in force, the same rows every time."""

from __future__ import annotations

from typing import Any

from tests.builders import (
    MODEL,
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    governed,
    record,
    tick,
    usage,
)

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.prices import default_book
from sluice.runtime.storing import Position, Storing
from sluice.wire.codec import decode, encode


def storing(references: FakeReferences) -> Storing:
    """A converter at topic generation 0."""
    return Storing(TOPICS, references, 0)


def test_usage_is_priced_by_the_book_in_force_at_its_offset() -> None:
    """Before the activation the price is unknown, after it exact."""
    references = FakeReferences()
    name = references.put(default_book())
    position = Position(0)
    made = [record(0, usage(1)), activate(1, name), record(2, usage(2))]
    rows, done = storing(references).rows(TOPICS.usage, 0, made, position)
    before, after = rows["usage_events"]
    assert (done, position.next_offset, position.price_book) == (3, 3, name[1:])
    assert (before["cost_pusd"], before["unpriced"], before["price_book_version"]) == (
        None,
        1,
        None,
    )
    assert (after["cost_pusd"], after["unpriced"]) == (100 * 50_000 + 100 * 250_000, 0)
    assert after["price_book_version"] == name[2]
    assert after["source_offset"] == 2
    assert [r["id"] for r in rows["activations"]] == ["default"]


def test_the_first_arrival_of_an_event_stays() -> None:
    """A resend has a smaller version and cannot replace the event; a new generation always can."""
    sink, position = storing(FakeReferences()), Position(0)
    rows, _ = sink.rows(TOPICS.usage, 0, [record(0, usage(1)), record(9, usage(1))], position)
    first, resent = (row["version"] for row in rows["usage_events"])
    assert first > resent > 0
    renewed = Storing(TOPICS, FakeReferences(), 1)
    rows, _ = renewed.rows(TOPICS.usage, 0, [record(10**12, usage(1))], Position(10**12))
    assert rows["usage_events"][0]["version"] > first


def test_a_book_that_has_not_arrived_is_waited_for() -> None:
    """Conversion stops before the activation and names what it waits for."""
    references = FakeReferences()
    name = ("price_book", "default", default_book().version)
    sink, position = storing(references), Position(0)
    made = [record(0, usage(1)), activate(1, name), record(2, usage(2))]
    assert sink.rows(TOPICS.usage, 0, made, position)[1] == 1
    assert sink.waiting_for == name
    references.put(default_book())
    assert sink.rows(TOPICS.usage, 0, made[1:], position)[1] == 2


def test_a_version_that_was_never_published_changes_nothing() -> None:
    """Like the meter, the sink keeps the book in force when an activation is bad."""
    references = FakeReferences()
    good = references.put(default_book())
    bad = ("price_book", "default", "feedfeedfeedfeed")
    references.faulty.add(bad)
    position = Position(0)
    made = [activate(0, good), activate(1, bad), record(2, usage(1))]
    rows, _ = storing(references).rows(TOPICS.usage, 0, made, position)
    assert position.price_book == good[1:]
    assert rows["usage_events"][0]["unpriced"] == 0


def test_what_the_meter_refuses_is_not_stored_as_usage() -> None:
    """Garbage and faulty events give no usage row; their position is passed all the same."""
    position = Position(0)
    made = [
        record(0, b"garbage"),
        record(1, usage(1, output_tokens=-1)),
        record(2, usage(2), key="b"),
    ]
    rows, done = storing(FakeReferences()).rows(TOPICS.usage, 0, made, position)
    assert (rows, done, position.next_offset) == ({}, 3, 3)


def test_the_meter_s_outputs_become_rows_of_their_tables() -> None:
    """Decisions, lifts, budget rows and dead letters of a real partition all find their table."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, input_tokens=0, output_tokens=4000)),
                record(3, b"garbage"), activate(4, ("policy", "test", ""))])  # fmt: skip
    sink = storing(FakeReferences())
    found: dict[str, int] = {}
    for out in part.take():
        if out.topic in sink.stored_topics:
            headers = tuple((name, bytes(value)) for name, value in out.headers or ())
            consumed = FakeRecord(0, NOW // 1000, out.key, out.value, headers)
            rows, _ = sink.rows(out.topic, out.partition, [consumed], Position(0))
            for table, batch in rows.items():
                found[table] = found.get(table, 0) + len(batch)
    assert found == {"decisions": 1, "budget_ledgers": 1, "decision_lifts": 1, "dead_letters": 1}


def test_windows_tasks_and_producers_are_stored_as_they_were_published() -> None:
    """Every absolute row of the meter goes into its table field by field."""
    part, _, start = governed()
    part.apply([*start, record(2, usage(1, task_id="t")), tick(3, NOW + 10_000_000)])
    sink = storing(FakeReferences())
    found: dict[str, list[dict[str, Any]]] = {}
    for out in part.take():
        if out.topic in (TOPICS.windows, TOPICS.tasks, TOPICS.sources):
            consumed = FakeRecord(0, NOW // 1000, out.key, out.value)
            rows, _ = sink.rows(out.topic, out.partition, [consumed], Position(0))
            found |= rows
            assert next(iter(rows.values())) == [decode(out.value or b"")[1]]
    assert {table: len(rows) for table, rows in found.items()} == {
        "usage_windows": 1, "usage_tasks": 1, "usage_sources": 1,
    }  # fmt: skip


def baseline(q95: int) -> Baseline:
    """A baseline that knows the model's short chats."""
    return Baseline(1, {("chat", MODEL, "1k", ""): Norm(1_000_000, q95, 200)}, {})


def test_events_have_the_bands_that_their_window_has() -> None:
    """Costs, bands and classes of raw events add up to the meter's row, across two baselines."""
    part, references, start = governed()
    names = []
    for known in (baseline(9_000_000), baseline(20_000_000)):
        names.append(("baseline", "default", known.version))
        references.held[names[-1]] = known
    made = [
        *start, record(2, usage(1)), activate(3, names[0]), record(4, usage(2)),
        record(5, usage(3, event_type="embedding", operation_name="embeddings", output_tokens=0)),
        activate(6, names[1]),
        record(7, usage(4, output_tokens=900)), record(8, usage(5, request_model="unheard-of")),
        record(9, usage(6, event_type="correction", corrects_event_id="e", cost_source="provider",
                        cost_pusd=5_000_000, original_cost_pusd=18_000_000, output_tokens=20,
                        baseline_q50_pusd=1_000_000, baseline_q95_pusd=20_000_000)),
    ]  # fmt: skip
    part.apply(made)
    rows, _ = storing(references).rows(TOPICS.usage, 0, made, Position(0))
    events = rows["usage_events"]
    windows = part.state.windows.rows.values()
    for place, name in enumerate(("body_pusd", "shoulder_pusd", "tail_pusd")):
        assert sum(e[name] for e in events) == sum(w.bands[place] for w in windows)
    assert sum(e["cost_pusd"] or 0 for e in events) == sum(w.cost_pusd for w in windows)
    for e in events:
        explained = sum(part["cost_pusd"] for part in e["usage_by_class"])
        assert e["body_pusd"] + e["shoulder_pusd"] + e["tail_pusd"] == (e["cost_pusd"] or 0)
        assert explained == (e["cost_pusd"] or 0)
    assert [e["baseline_version"] for e in events] == [
        "packaged", names[0][2], "packaged", names[1][2], None, None,
    ]  # fmt: skip
    assert [e["tail_pusd"] for e in events] == [0, 21_000_000, 0, 210_000_000, 0, 3_000_000]
    assert events[3]["baseline_q95_pusd"] == 20_000_000


def test_a_baseline_that_has_not_arrived_is_waited_for() -> None:
    """No event behind its activation is stored before it is at hand."""
    references, known = FakeReferences(), baseline(5)
    name = ("baseline", "default", known.version)
    sink, position = storing(references), Position(0)
    made = [activate(0, name), record(1, usage(1))]
    assert sink.rows(TOPICS.usage, 0, made, position)[1] == 0
    assert sink.waiting_for == name
    references.held[name] = known
    assert sink.rows(TOPICS.usage, 0, made, position)[1] == 2
    assert position.baseline == name[1:]


def test_a_cost_that_no_sum_could_hold_is_not_stored() -> None:
    """The meter refuses it as an overflow; the sink passes it instead of stopping."""
    references = FakeReferences()
    name = references.put(default_book())
    made = [activate(0, name), record(1, usage(1, output_tokens=10**15)), record(2, usage(2))]
    rows, done = storing(references).rows(TOPICS.usage, 0, made, Position(0))
    assert (done, [e["source_offset"] for e in rows["usage_events"]]) == (3, [2])
    part, _, start = governed()
    part.apply([*start, *made[1:]])
    assert part.state.header.counters["dead_letters.sum_overflow"] == 1


def test_admission_events_have_no_cost_and_no_bands() -> None:
    """What was refused costs nothing; its estimate stays an estimate."""
    references = FakeReferences()
    name = references.put(default_book())
    refused = usage(1, event_type="admission", outcome="rejected", estimated_cost_pusd=9,
                    output_tokens=0, input_tokens=0)  # fmt: skip
    rows, _ = storing(references).rows(TOPICS.usage, 0, [activate(0, name), record(1, refused)],
                                       Position(0))  # fmt: skip
    (event,) = rows["usage_events"]
    assert (event["cost_pusd"], event["unpriced"], event["tail_pusd"]) == (None, 0, 0)
    assert (event["baseline_version"], event["estimated_cost_pusd"]) == (None, 9)


def test_heartbeats_are_not_stored() -> None:
    """The control topic's heartbeats leave no row."""
    beat = {"source_partition": 0, "epoch": 1, "sequence": 5, "issued_at": NOW, "watermark": NOW}
    made = [FakeRecord(0, NOW // 1000, b"heartbeat|0", encode("Heartbeat", beat))]
    rows, done = storing(FakeReferences()).rows(TOPICS.control, 0, made, Position(0))
    assert (rows, done) == ({}, 1)
