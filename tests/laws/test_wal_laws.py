"""Laws of the emitter: nothing taken is lost, no key is reordered, damage costs what it touches."""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import usage

from sluice.errors import WireError
from sluice.wire import emitter_delivery, schema
from sluice.wire.codec import decode, encode
from sluice.wire.emitter import Position, UsageEmitter
from sluice.wire.emitter_encode import RecordEncoder
from sluice.wire.emitter_sender import Sender
from sluice.wire.wal_frames import SYNC, Damage, frames, pack

# ---- frames

LONG = st.integers(-(2**63), 2**63 - 1)
# Now and then a value looks like the beginning of a record.
CHUNK = st.binary(max_size=40) | st.just(SYNC) | st.just(pack(1, b"k", b"inner")[:20])
RECORD = st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=20), CHUNK)
RECORDS = st.lists(RECORD, max_size=12)

Record = tuple[int, bytes, bytes]


def written(records: list[Record]) -> tuple[bytes, list[tuple[int, int]]]:
    """A file of these records, and where each of them begins and ends."""
    file, places = b"", []
    for record in records:
        places.append((len(file), len(file) + len(pack(*record))))
        file += pack(*record)
    return file, places


def read(file: bytes) -> tuple[list[Record], Damage]:
    """The records that can be read from a file, and its damage."""
    damage = Damage()
    return [(f.seq, f.key, f.value) for f in frames(file, damage)], damage


@given(RECORDS, st.data())
def test_a_file_cut_anywhere_yields_a_prefix(records: list[Record], data: st.DataObject) -> None:
    """Exactly the records that are whole before the cut come back, and the rest is a torn end."""
    file, places = written(records)
    cut = data.draw(st.integers(0, len(file)))
    whole = sum(end <= cut for _, end in places)
    torn_bytes = cut - (places[whole - 1][1] if whole else 0)
    assert read(file[:cut]) == (records[:whole], Damage(torn_bytes=torn_bytes))


@given(RECORDS, st.data())
def test_damage_costs_only_the_records_it_touches(
    records: list[Record], data: st.DataObject
) -> None:
    """Every record outside the overwritten bytes is saved, in order, and none is made up."""
    file, places = written(records)
    first = data.draw(st.integers(0, len(file)))
    junk = data.draw(st.binary(min_size=1, max_size=60))[: len(file) - first]
    spoilt = file[:first] + junk + file[first + len(junk) :]
    kept = [
        record
        for record, (start, end) in zip(records, places, strict=True)
        if spoilt[start:end] == file[start:end]
    ]
    found, damage = read(spoilt)
    assert found == kept
    assert (damage == Damage()) == (kept == records)


# ---- the emitter against a broker that fails in every way

PARTITIONS = 2
TENANTS = ("a", "b", "c", "d")


class Broker:
    """Partitions that the test moves by hand: written and acknowledged are two steps."""

    def __init__(self) -> None:
        self.topic: list[dict[str, Any]] = []
        self.producer: HandMovedProducer | None = None
        self.room = 1000

    def connect(self, config: dict[str, Any]) -> HandMovedProducer:
        self.producer = HandMovedProducer(self)
        return self.producer


class HandMovedProducer:
    """An idempotent producer as librdkafka's: each partition in order, all or nothing after."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queued: list[deque[Any]] = [deque() for _ in range(PARTITIONS)]
        self.unacknowledged: list[deque[Any]] = [deque() for _ in range(PARTITIONS)]
        self.answers: list[tuple[Any, KafkaError | None]] = []
        self.fatal = False

    def __len__(self) -> int:
        waiting = sum(map(len, self.queued)) + sum(map(len, self.unacknowledged))
        return waiting + len(self.answers)

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
        if self.fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if len(self) >= self.broker.room:
            raise BufferError
        self.queued[crc32(key) % PARTITIONS].append((value, on_delivery))

    def write(self, partition: int, count: int) -> None:
        """The broker writes some records; nobody is told yet."""
        for _ in range(min(count, len(self.queued[partition]))):
            value, on_delivery = self.queued[partition].popleft()
            self.broker.topic.append(decode(value)[1])
            self.unacknowledged[partition].append(on_delivery)

    def acknowledge(self, partition: int, count: int) -> None:
        """The news of some written records arrives."""
        for _ in range(min(count, len(self.unacknowledged[partition]))):
            self.answers.append((self.unacknowledged[partition].popleft(), None))

    def fail(self) -> None:
        """A fatal error: nothing more is written, and news of what was written is lost."""
        self.fatal = True

    def poll(self, timeout: float) -> None:
        answers, self.answers = self.answers, []
        for on_delivery, error in answers:
            on_delivery(error, None)
        if self.fatal:
            raise KafkaException(KafkaError(KafkaError._GAPLESS_GUARANTEE, "gap", fatal=True))

    def purge(self) -> None:
        lost = [report for queue in self.queued for _, report in queue]
        lost += [report for queue in self.unacknowledged for report in queue]
        self.queued = self.unacknowledged = []
        self.answers += [(report, KafkaError(KafkaError._PURGE_QUEUE)) for report in lost]

    def flush(self, timeout: float) -> None:
        answers, self.answers = self.answers, []
        for on_delivery, error in answers:
            on_delivery(error, None)


class Life:
    """An emitter and its successors on one folder, moved step by step without a thread."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker()
        self.emitter = UsageEmitter(
            {}, "usage", "gw", folder, connect=self.broker.connect, full_timeout_ms=0,
            wal_max_bytes=2**17, new_epoch=iter(f"e{n:02d}" for n in range(100)).__next__,
        )  # fmt: skip
        self.taken: list[tuple[str, Position]] = []

    @property
    def sender(self) -> Sender:
        """The sender of the present process."""
        with self.emitter._lock:
            return (self.emitter._epoch or self.emitter._reopen()).sender

    def step(self, what: str, which: int, count: int) -> None:
        """One thing happens."""
        producer = self.broker.producer
        assert producer is not None
        if what == "emit":
            tenant = TENANTS[which % len(TENANTS)]
            event = {k: v for k, v in usage(tenant_id=tenant).items() if k != "event_id"}
            self.taken += [(tenant, self.emitter.emit(event)) for _ in range(count)]
        elif what == "turn":
            self.sender.turn()
        elif what == "write":
            producer.write(which % PARTITIONS, count)
        elif what == "acknowledge":
            producer.acknowledge(which % PARTITIONS, count)
        elif what == "fail":
            producer.fail()
        elif what == "room":
            self.broker.room = count
        elif what == "save":
            for log in self.sender._logs:
                log.save_acknowledgements()
        else:
            # To its log, the end of a process is what it is to a child's copy: descriptors close.
            self.emitter.after_fork()

    def settle(self) -> None:
        """Everything works from now on, until nothing is pending."""
        self.broker.room = 1000
        self.emitter.after_fork()
        for _ in range(1000):
            self.sender.turn()
            for partition in range(PARTITIONS):
                self.step("write", partition, 1000)
                self.step("acknowledge", partition, 1000)
            if self.sender.drained:
                return
        raise AssertionError(self.emitter.stats())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["emit", "turn", "turn", "write", "acknowledge", "fail", "room", "save", "crash"]
        ),
        st.integers(0, 3),
        st.integers(1, 12),
    ),
    max_size=60,
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_nothing_taken_is_lost_or_reordered(steps: list[tuple[str, int, int]]) -> None:
    """Whatever fails, the topic ends with every event, each key's numbers in order from 1."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(Sender, "start", lambda _: None),
        patch.object(emitter_delivery, "_FIRST_PAUSE_S", 0.0),
    ):
        life = Life(Path(folder))
        for step in steps:
            life.step(*step)
        life.settle()
        left = [path.parent.name for path in Path(folder).glob("gw/*/*.wal")]
        assert left == [life.emitter.source_epoch]
        life.emitter.after_fork()
        life.emitter.close()
    topic = [Position(e["event_id"], e["source_epoch"], e["source_seq"]) for e in life.broker.topic]
    assert set(topic) == {position for _, position in life.taken}
    first: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in life.broker.topic:
        numbers = first[event["source_epoch"], event["tenant_id"]]
        if event["source_seq"] not in numbers:
            numbers.append(event["source_seq"])
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in first.values())


# ---- the fast encoder

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=20) | st.just("x" * 9000),
    "long": LONG,
    "int": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
}
JUNK: tuple[Any, ...] = (
    None, 1, 1.0, True, "", "text", b"", "\ud800", -(2**31), 2**31, -(2**31) - 1, 2**63 - 1, 2**63,
    -(2**63) - 1, [], [None], [1], ["text"], [{"key": "k"}], [{"key": "k", "value": 1}],
    [{"key": "k", "value": 1, "more": 1}], [{"key": "k", "value": "text"}], {},
)  # fmt: skip


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an Avro type."""
    if isinstance(kind, list):
        return st.none() | values(kind[1])
    if isinstance(kind, str):
        return VALUES[kind]
    if kind["type"] == "array":
        return st.lists(values(kind["items"]), max_size=3)
    found = st.fixed_dictionaries({f["name"]: values(f["type"]) for f in kind["fields"]})
    VALUES.setdefault(kind["name"], found)
    return found


RAW = schema.schema("UsageEvent")
FIELDS = {field["name"]: values(field["type"]) for field in RAW["fields"]}
REQUIRED = {name: FIELDS[name] for name in usage()}
EVENTS = st.fixed_dictionaries(
    REQUIRED, optional={n: s for n, s in FIELDS.items() if n not in REQUIRED}
)
ENCODER = RecordEncoder.framed("UsageEvent")


@given(EVENTS)
def test_the_fast_encoder_writes_what_the_codec_writes(event: dict[str, Any]) -> None:
    """Any valid event gives the same bytes either way."""
    assert ENCODER.encode(event) == encode("UsageEvent", event)


def outcome(event: dict[str, Any], encoder: Any) -> bytes | str:
    """The bytes, or the reason why there are none."""
    try:
        return bytes(encoder(event))
    except WireError as error:
        return error.reason


def test_the_fast_encoder_refuses_what_the_codec_refuses() -> None:
    """Any wrong or extreme value in any field is either written alike or refused alike."""
    outcomes = []
    for name in (*FIELDS, "no_such_field"):
        for junk in JUNK:
            event = usage() | {name: junk}
            outcomes.append(outcome(event, ENCODER.encode))
            assert outcomes[-1] == outcome(event, lambda e: encode("UsageEvent", e)), (name, junk)
    assert 0 < outcomes.count("unencodable") < len(outcomes)
