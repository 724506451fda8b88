"""The emitter at its edge: numbers, order, refusals, a full log, successors, forks, lines."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from tests.builders import usage

from sluice.errors import ConfigError, SluiceError, WireError
from sluice.wire import emitter_sender
from sluice.wire.codec import END_MARK, decode, encode
from sluice.wire.emitter import Position, UsageEmitter
from sluice.wire.emitter_encode import RecordEncoder
from sluice.wire.emitter_lines import LineCounts, LineFault, emit_lines
from sluice.wire.emitter_stats import EmitterError
from sluice.wire.wal import SpoolFull
from sluice.wire.wal_frames import Damage, frames
from sluice.wire.wal_lock import hold, release

FILLED = ("event_id", "source", "source_epoch", "source_seq")
PURGED = KafkaError(KafkaError._PURGE_QUEUE)
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
Event = dict[str, Any]


class FakeKafka:
    """Stands for librdkafka and the broker behind it; `connect` makes its producers.

    `judge` decides about each record when its turn comes: None = delivered, a KafkaError = failed
    and with it all later ones, "later" = no answer yet.
    """

    def __init__(self) -> None:
        self.topic: list[Event] = []
        self.places: list[str] = []
        self.producers: list[FakeProducer] = []
        self.room = 10**9
        self.judge: Callable[[Event], KafkaError | str | None] = lambda _: None

    def connect(self, config: dict[str, Any]) -> FakeProducer:
        self.producers.append(FakeProducer(self, config))
        return self.producers[-1]

    def numbers(self) -> list[int]:
        """source_seq of everything delivered."""
        return [event["source_seq"] for event in self.topic]


class FakeProducer:
    """What the emitter uses of confluent_kafka.Producer."""

    def __init__(self, kafka: FakeKafka, config: dict[str, Any]) -> None:
        self.kafka = kafka
        self.config = config
        self.queue: deque[tuple[Event, Any]] = deque()
        self.fatal: KafkaError | None = None

    def __len__(self) -> int:
        return len(self.queue)

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any) -> None:
        if self.fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if len(self.queue) >= self.kafka.room:
            raise BufferError
        event = decode(value)[1]
        assert key == event["tenant_id"].encode()
        self.kafka.places.append(topic)
        self.queue.append((event, on_delivery))

    def poll(self, timeout: float) -> None:
        while self.queue and not self.fatal:
            verdict = self.kafka.judge(self.queue[0][0])
            if isinstance(verdict, str):
                return
            event, on_delivery = self.queue.popleft()
            if isinstance(verdict, KafkaError) and not event["tenant_id"]:
                # No leases topic: never sent, so nothing is missing before later records.
                on_delivery(verdict, None)
                continue
            if isinstance(verdict, KafkaError):
                self.fatal = KafkaError(KafkaError._GAPLESS_GUARANTEE, "gap", fatal=True)
                on_delivery(verdict, None)
                raise KafkaException(self.fatal)
            self.kafka.topic.append(event)
            on_delivery(None, None)

    def purge(self) -> None:
        self.purged = True

    def flush(self, timeout: float) -> None:
        assert self.purged
        while self.queue:
            self.queue.popleft()[1](PURGED, None)


@pytest.fixture
def kafka() -> FakeKafka:
    """A broker that takes everything."""
    return FakeKafka()


@pytest.fixture
def make(kafka: FakeKafka, tmp_path: Path) -> Iterator[Callable[..., UsageEmitter]]:
    """Makes emitters on the fake and closes them in the end."""
    made: list[UsageEmitter] = []

    def make(**over: Any) -> UsageEmitter:
        options = {"connect": kafka.connect, **over}
        made.append(UsageEmitter({}, "usage", "gw", tmp_path, **options))
        return made[-1]

    yield make
    for emitter in made:
        emitter.close(0)


Make = Callable[..., UsageEmitter]


def plain(tenant: str = "acme", **over: Any) -> Event:
    """An event as a gateway gives it."""
    event = usage(1, tenant_id=tenant) | over
    return {name: value for name, value in event.items() if name in over or name not in FILLED}


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that the sending thread must bring about."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_events_are_numbered_per_tenant_from_one(kafka: FakeKafka, make: Make) -> None:
    """Each tenant counts 1, 2, 3 in one epoch; the caller learns what the topic shows."""
    emitter = make()
    places = [emitter.emit(plain(tenant)) for tenant in ("a", "b", "a", "a")]
    assert emitter.flush() == 0
    assert [place.source_seq for place in places] == [1, 1, 2, 3]
    shown = [Position(e["event_id"], e["source_epoch"], e["source_seq"]) for e in kafka.topic]
    assert shown == places
    assert len({place.event_id for place in places}) == 4
    assert {place.source_epoch for place in places} == {emitter.source_epoch}


def test_the_emitter_fills_in_who_sent_it_and_nothing_else(kafka: FakeKafka, make: Make) -> None:
    """An event keeps its fields and id; source, epoch, number and end mark are the emitter's."""
    emitter = make()
    given = plain(event_id="mine", source="else", source_epoch="else", source_seq=9, end_mark=1)
    emitter.emit(given)
    assert emitter.flush() == 0
    (event,) = kafka.topic
    own = {"source": "gw", "source_epoch": emitter.source_epoch, "source_seq": 1,
           "end_mark": END_MARK}  # fmt: skip
    assert event == decode(encode("UsageEvent", given | own))[1]


def test_the_producer_is_idempotent_and_keyed_by_murmur2(kafka: FakeKafka, make: Make) -> None:
    """No option given by the operator weakens what law 2 rests on; others are kept."""
    weak = {"acks": 1, "enable.idempotence": False, "partitioner": "random",
            "message.timeout.ms": 5, "linger.ms": 1, "compression.type": "lz4"}  # fmt: skip
    UsageEmitter(weak, "usage", "gw", make()._options.wal_dir, connect=kafka.connect).close(0)
    assert {name: kafka.producers[-1].config[name] for name in weak} == {
        "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random",
        "message.timeout.ms": 0, "linger.ms": 1, "compression.type": "lz4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"input_tokens": "many"}, "input_tokens"),
        ({"input_tokens": 1.0}, "input_tokens"),
        ({"ouput_tokens": 3}, "ouput_tokens"),
        ({"tenant_id": ""}, "missing_tenant"),
        ({"tenant_id": 7}, "missing_tenant"),
        ({"project_id": "\ud800"}, "project_id"),
        ({"project_id": None}, "project_id"),
        ({"prefix_block_ids": [1 << 62] * 200_000}, "too_large"),
    ],
)
def test_an_event_that_does_not_fit_uses_no_number(
    kafka: FakeKafka, make: Make, fault: Event, named: str
) -> None:
    """A wrong event is refused with what is wrong and leaves no hole in the numbers."""
    emitter = make()
    with pytest.raises(WireError, match=named):
        emitter.emit(plain(**fault))
    assert emitter.emit(plain()).source_seq == 1
    assert emitter.flush() == 0
    assert kafka.numbers() == [1]


def test_missing_fields_are_named(make: Make) -> None:
    """An incomplete event is refused with all that it needs."""
    with pytest.raises(WireError, match=r"needs .*occurred_at.*outcome"):
        make().emit({"tenant_id": "acme"})


def test_a_full_queue_keeps_the_order(kafka: FakeKafka, make: Make) -> None:
    """Events that librdkafka has no room for wait in the log and follow in order."""
    kafka.room = 3
    emitter = make()
    for _ in range(200):
        emitter.emit(plain())
    assert emitter.flush() == 0
    assert kafka.numbers() == list(range(1, 201))


def test_emit_never_waits_for_the_broker(kafka: FakeKafka, make: Make) -> None:
    """With a silent broker every event is taken, and stays in the log until it answers."""
    kafka.judge = lambda _: "later"
    emitter = make()
    for _ in range(300):
        emitter.emit(plain())
    stats = emitter.stats()
    assert (stats.emitted, stats.pending, kafka.topic) == (300, 300, [])
    assert emitter.flush(0) == 300
    kafka.judge = lambda _: None
    assert emitter.flush() == 0
    assert kafka.numbers() == list(range(1, 301))


@pytest.mark.parametrize("code", [KafkaError._MSG_TIMED_OUT, KafkaError.INVALID_PRODUCER_EPOCH,
                                  KafkaError._UNKNOWN_TOPIC,
                                  KafkaError.TOPIC_AUTHORIZATION_FAILED])  # fmt: skip
def test_a_failed_producer_is_replaced_and_everything_sent_again(
    kafka: FakeKafka, make: Make, code: int
) -> None:
    """After a permanent failure the next producer gets all without acknowledgement, in order."""
    heard: list[EmitterError] = []
    kafka.judge = lambda _: "later"
    emitter = make(on_error=heard.append)
    for _ in range(40):
        emitter.emit(plain())
    until(lambda: len(kafka.producers[0]) == 40)

    def judge(event: Event) -> KafkaError | None:
        broken = event["source_seq"] == 11 and len(kafka.producers) < 3
        return KafkaError(code) if broken else None

    kafka.judge = judge
    assert emitter.flush() == 0
    assert kafka.numbers() == list(range(1, 41))
    stats = emitter.stats()
    name = KafkaError(code).name()
    assert (len(kafka.producers), stats.delivery_errors) == (3, {name: 2})
    assert 30 <= stats.resent <= 60
    assert [(error.code, error.source_seq) for error in heard] == [(name, 11)] * 2
    assert stats.last_error == heard[-1]


def test_an_outage_is_told_once(kafka: FakeKafka, make: Make) -> None:
    """News of lost brokers reach on_error once until events get through again."""
    heard: list[EmitterError] = []
    emitter = make(on_error=heard.append)
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    tell = kafka.producers[0].config["error_cb"]
    tell(down)
    tell(down)
    emitter.emit(plain())
    assert emitter.flush() == 0
    tell(down)
    assert [error.code for error in heard] == ["_ALL_BROKERS_DOWN"] * 2
    assert emitter.stats().delivery_errors == {}


def test_trouble_in_on_error_stops_nothing(kafka: FakeKafka, make: Make) -> None:
    """A callback that raises is no reason to send nothing any more."""
    kafka.judge = lambda _: KafkaError(KafkaError._TRANSPORT) if len(kafka.producers) == 1 else None
    emitter = make(on_error=lambda _: 1 / 0)
    emitter.emit(plain())
    assert emitter.flush() == 0


def test_an_unexpected_fault_is_told_and_survived(
    kafka: FakeKafka, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the sending thread shows in the stats, and it goes on."""
    monkeypatch.setattr(emitter_sender, "_FAULT_PAUSE_S", 0.01)
    faults = iter([ZeroDivisionError("surprise")])

    def judge(_: Event) -> None:
        for fault in faults:
            raise fault

    kafka.judge = judge
    emitter = make()
    emitter.emit(plain())
    assert emitter.flush() == 0
    assert emitter.stats().last_error == EmitterError("INTERNAL", "ZeroDivisionError: surprise")


def test_a_record_that_kafka_never_takes_is_set_aside_alone(
    kafka: FakeKafka, make: Make, tmp_path: Path
) -> None:
    """The large record of a refused batch is found, kept in a file and told; the others go out."""
    heard: list[EmitterError] = []
    kafka.judge = lambda _: "later"
    emitter = make(on_error=heard.append)
    for number in range(1, 9):
        emitter.emit(plain(event_id=str(number)))
    until(lambda: len(kafka.producers[0]) == 8)

    # Together the broker refuses the first of the batch, alone only the large one.
    def judge(event: Event) -> KafkaError | None:
        alone = "batch.num.messages" in kafka.producers[-1].config
        return TOO_LARGE if event["source_seq"] == 5 or not alone else None

    kafka.judge = judge
    assert emitter.flush() == 0
    assert kafka.numbers() == [1, 2, 3, 4, 6, 7, 8]
    stats = emitter.stats()
    assert (stats.acknowledged, stats.refused, stats.pending) == (7, 1, 0)
    assert heard[-1] == EmitterError(TOO_LARGE.name(), TOO_LARGE.str(), b"acme", 5)
    kept = frames((tmp_path / "gw" / "refused.wal").read_bytes(), Damage())
    assert [decode(frame.value)[1]["event_id"] for frame in kept] == ["5"]

    kafka.judge = lambda _: None
    emitter.emit(plain())
    assert emitter.flush() == 0
    assert "batch.num.messages" not in kafka.producers[-1].config


def test_a_full_log_refuses_instead_of_dropping(kafka: FakeKafka, make: Make) -> None:
    """Beyond its bound nothing is taken and no number used; what was taken is all delivered."""
    kafka.judge = lambda _: "later"
    emitter = make(wal_max_bytes=64 * 1024, full_timeout_ms=0)
    taken = 0
    with pytest.raises(SpoolFull, match="wal_max_bytes"):
        while taken < 10_000:
            emitter.emit(plain())
            taken += 1
    stats = emitter.stats()
    assert (stats.emitted, stats.spool_full) == (taken, 1)
    assert 60 * 1024 < stats.wal_bytes <= 64 * 1024
    kafka.judge = lambda _: None
    assert emitter.flush() == 0
    assert emitter.emit(plain()).source_seq == taken + 1
    assert emitter.flush() == 0
    assert kafka.numbers() == list(range(1, taken + 2))


def test_a_full_log_waits_for_room(kafka: FakeKafka, make: Make) -> None:
    """`emit` holds on while the log is full and goes on when Kafka has taken some."""
    kafka.judge = lambda _: "later"
    emitter = make(wal_max_bytes=64 * 1024, full_timeout_ms=20_000)
    done = threading.Event()

    def emit_many() -> None:
        for _ in range(1000):
            emitter.emit(plain())
        done.set()

    thread = threading.Thread(target=emit_many)
    thread.start()
    until(lambda: emitter.stats().wal_bytes > 63 * 1024)
    assert not done.is_set()
    kafka.judge = lambda _: None
    thread.join(20)
    assert done.is_set()
    assert emitter.flush() == 0
    assert kafka.numbers() == list(range(1, 1001))
    assert emitter.stats().spool_full == 0


def test_large_events_do_not_block_a_small_log(kafka: FakeKafka, make: Make) -> None:
    """A delivered event gives its room to the next one, also where two do not fit together."""
    emitter = make(wal_max_bytes=64 * 1024)
    for number in range(1, 4):
        emitter.emit(plain(prefix_block_ids=[1 << 61] * 4500))
        assert emitter.flush() == 0
        assert kafka.numbers() == list(range(1, number + 1))


def test_many_threads_share_an_emitter(kafka: FakeKafka, make: Make) -> None:
    """Numbers stay without holes and in order under each tenant, whoever emits."""
    emitter = make()

    def emit_many() -> None:
        for number in range(300):
            emitter.emit(plain(f"t{number % 3}"))

    threads = [threading.Thread(target=emit_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emitter.flush() == 0
    for tenant in ("t0", "t1", "t2"):
        numbers = [e["source_seq"] for e in kafka.topic if e["tenant_id"] == tenant]
        assert numbers == list(range(1, 401))


def test_a_successor_sends_what_was_left_with_its_numbers(
    kafka: FakeKafka, make: Make, tmp_path: Path
) -> None:
    """Pending events come first, unchanged; then the new epoch's, from one."""
    kafka.judge = lambda _: "later"
    first = make()
    places = [first.emit(plain()) for _ in range(5)]
    assert first.close(0) == 5
    kafka.judge = lambda _: None
    second = make()
    places.append(second.emit(plain()))
    assert second.flush() == 0
    shown = [Position(e["event_id"], e["source_epoch"], e["source_seq"]) for e in kafka.topic]
    assert shown == places
    assert (places[-1].source_seq, second.stats().recovered) == (1, 5)
    assert len({place.source_epoch for place in places}) == 2
    second.close()
    assert list((tmp_path / "gw").iterdir()) == []


def test_a_living_emitter_takes_over_from_one_that_ends(
    kafka: FakeKafka, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs to start a successor: any emitter on the same folder looks from time to time."""
    monkeypatch.setattr(emitter_sender, "_ADOPT_EVERY_S", 0.01)
    kafka.judge = lambda _: "later"
    living, ending = make(), make()
    ending.emit(plain())
    assert ending.close(0) == 1
    kafka.judge = lambda _: None
    until(lambda: living.stats().recovered == 1)
    assert living.flush() == 0
    assert kafka.numbers() == [1]


def test_logs_taken_over_count_for_the_bound(kafka: FakeKafka, make: Make) -> None:
    """Restarts during an outage do not multiply what the logs may take on disk."""
    kafka.judge = lambda _: "later"
    first = make(wal_max_bytes=64 * 1024, full_timeout_ms=0)
    with pytest.raises(SpoolFull):
        while True:
            first.emit(plain())
    left = first.close(0)
    second = make(wal_max_bytes=64 * 1024, full_timeout_ms=0)
    until(lambda: second.stats().recovered == left)
    with pytest.raises(SpoolFull):
        for _ in range(10):
            second.emit(plain())
    kafka.judge = lambda _: None
    assert second.flush() == 0
    second.emit(plain())


def test_damage_of_a_log_is_told(kafka: FakeKafka, make: Make, tmp_path: Path) -> None:
    """Unreadable bytes in a log taken over reach on_error and the stats; the rest is sent."""
    kafka.judge = lambda _: "later"
    first = make()
    for _ in range(3):
        first.emit(plain())
    first.close(0)
    (path,) = tmp_path.glob("gw/*/0001.wal")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xff" + content[len(content) // 2 + 2 :])
    kafka.judge = lambda _: None
    heard: list[EmitterError] = []
    second = make(on_error=heard.append)
    assert second.flush() == 0
    assert kafka.numbers() == [1, 3]
    assert second.stats().damage.stretches == 1
    assert [error.code for error in heard] == ["WAL_DAMAGED"]


def test_stats_tell_how_far_it_is(kafka: FakeKafka, make: Make) -> None:
    """Emitted = acknowledged + pending at every moment; bytes fall when Kafka has them."""
    kafka.judge = lambda event: None if event["source_seq"] <= 10 else "later"
    kafka.room = 5
    emitter = make()
    for _ in range(30):
        emitter.emit(plain())
    until(lambda: emitter.stats().acknowledged == 10 and len(kafka.producers[0]) == 5)
    stats = emitter.stats()
    size = (stats.wal_bytes - 20) // 30
    assert (stats.emitted, stats.pending) == (30, 20)
    assert stats.unsent_bytes == pytest.approx(15 * size, abs=30)
    kafka.judge = lambda _: None
    assert emitter.flush() == 0
    stats = emitter.stats()
    assert (stats.acknowledged, stats.pending, stats.unsent_bytes) == (30, 0, 0)
    emitter.close()
    assert emitter.stats().wal_bytes == 0


def test_a_closed_emitter_says_so(make: Make) -> None:
    """After `close` an event is refused rather than lost; closing twice is harmless."""
    emitter = make()
    with emitter:
        pass
    assert emitter.close() == 0
    with pytest.raises(SluiceError, match="closed"):
        emitter.emit(plain())


@pytest.mark.parametrize(
    "over",
    [
        {"source": ""},
        {"source": "x" * 257},
        {"wal_max_bytes": 10},
        {"fsync_interval_ms": 0},
        {"fsync": "sometimes"},
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path: Path, over: dict[str, Any]) -> None:
    """A wrong argument is named when the emitter is made, and nothing is left behind."""
    name = next(iter(over))
    source = over.pop("source", "gw")
    with pytest.raises(ConfigError, match=name):
        UsageEmitter({}, "usage", source, tmp_path, **over)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_producer_option_is_a_configuration_error(tmp_path: Path) -> None:
    """The client library's word on an option reaches the operator; no folder is left behind."""
    with pytest.raises(ConfigError, match=r"no\.such\.option"):
        UsageEmitter({"no.such.option": 1}, "usage", "gw", tmp_path)
    assert list((tmp_path / "gw").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_a_new_epoch(kafka: FakeKafka, make: Make, tmp_path: Path) -> None:
    """The child counts from one in a log of its own and leaves the parent's alone."""
    kafka.judge = lambda _: "later"
    emitter = make()
    first = emitter.emit(plain())
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            assert emitter.source_epoch is None
            assert emitter.stats().emitted == 0
            places = [emitter.emit(plain()), emitter.emit(plain())]
            os.write(writer, json.dumps(places).encode())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    in_child = [Position(*place) for place in json.loads(os.read(reader, 4096))]
    os.close(reader)
    os.close(writer)
    assert [place.source_seq for place in in_child] == [1, 2]
    assert len({place.source_epoch for place in (first, *in_child)}) == 2
    assert emitter.emit(plain()).source_seq == 2
    # The child ended without a word: what it had pending is an orphan now, the parent's is not.
    kafka.judge = lambda _: None
    assert emitter.close() == 0
    with make() as successor:
        assert successor.flush() == 0
    assert sorted(kafka.numbers()) == [1, 1, 2, 2]
    assert {e["event_id"] for e in kafka.topic} >= {place.event_id for place in in_child}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_alone_leaves_no_trace(kafka: FakeKafka, make: Make, tmp_path: Path) -> None:
    """A child that emits nothing opens no log and holds none of its parent's locks."""
    kafka.judge = lambda _: "later"
    emitter = make()
    folder = next(tmp_path.glob("gw/*"))
    emitter.emit(plain())
    born, tell_born = os.pipe()
    end, tell_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(tell_end)
        os.write(tell_born, b"1")
        os.read(end, 1)
        os._exit(len(list(tmp_path.glob("gw/*"))))
    os.read(born, 1)
    assert hold(folder) is None
    emitter.close(0)
    lock = hold(folder)
    assert lock is not None
    release(lock)
    for fd in (born, tell_born, end, tell_end):
        os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


class Taker:
    """Takes events and keeps them."""

    def __init__(self, room: int = 100) -> None:
        self.events: list[Event] = []
        self.room = room

    def emit(self, event: Any) -> None:
        if len(self.events) == self.room:
            raise SpoolFull("full")
        self.events.append(dict(event))


def check(event: Any) -> None:
    """A rule as the caller's: no model named "bad"."""
    if event["request_model"] == "bad":
        raise WireError("bad_model", event["request_model"])


def test_lines_are_emitted_and_faults_told_with_their_numbers() -> None:
    """Good lines go out, each bad one is named; `check` sees defaults and filled-in fields."""
    seen: list[Event] = []
    lines = [json.dumps(plain()), "", "{", "[1]", json.dumps(plain(request_model="bad")),
             json.dumps(plain(input_tokens=1.5)), json.dumps(plain(event_id="mine"))]  # fmt: skip
    taker, faults = Taker(), list[LineFault]()
    counts = emit_lines(taker, lines, lambda e: (seen.append(dict(e)), check(e))[1], faults.append)
    assert counts == LineCounts(emitted=2, faults=4)
    assert [(fault.line, fault.reason) for fault in faults] == [
        (3, "not_json"), (4, "not_object"), (5, "bad_model"), (6, "unencodable"),
    ]  # fmt: skip
    assert taker.events == [plain(), plain(event_id="mine")]
    assert (seen[0]["depth"], seen[0]["units"], seen[0]["source_seq"]) == (0, [], 1)


def test_lines_stop_where_there_is_no_room() -> None:
    """A full log ends the run with the line that had no room; nothing is skipped."""
    taker = Taker(room=1)
    with pytest.raises(SpoolFull, match="line 3"):
        emit_lines(taker, ["", json.dumps(plain()), json.dumps(plain())], check, print)
    assert len(taker.events) == 1


def test_the_encoder_refuses_a_type_it_does_not_know() -> None:
    """A schema beyond the house's kinds is noticed when the encoder is made, not on the wire."""
    raw = {"name": "R", "fields": [{"name": "f", "type": {"type": "map", "values": "long"}}]}
    with pytest.raises(TypeError, match="map"):
        RecordEncoder(raw)
