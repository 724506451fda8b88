"""From records to ClickHouse rows: priced by what is in force, the same rows every time."""

from __future__ import annotations

from tests.builders import (
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    governed,
    record,
    usage,
)

from sluice.metering.prices import default_book
from sluice.runtime.storing import Position, Storing
from sluice.wire.codec import encode


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
    assert found == {"decisions": 1, "budget_states": 1, "decision_lifts": 1, "dead_letters": 1}


def test_heartbeats_are_not_stored() -> None:
    """The control topic's heartbeats leave no row."""
    beat = {"source_partition": 0, "epoch": 1, "sequence": 5, "issued_at": NOW, "watermark": NOW}
    made = [FakeRecord(0, NOW // 1000, b"heartbeat|0", encode("Heartbeat", beat))]
    rows, done = storing(FakeReferences()).rows(TOPICS.control, 0, made, Position(0))
    assert (rows, done) == ({}, 1)
