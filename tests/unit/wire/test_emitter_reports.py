"""Reports of lease holders through the emitter: order, numbers, and what a successor closes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from tests.unit.wire.test_emitter import FakeKafka, plain, until

from sluice.errors import WireError
from sluice.wire import wal_standing
from sluice.wire.codec import encode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.emitter_stats import EmitterError
from sluice.wire.wal_standing import Standing

Make = Callable[..., UsageEmitter]
LATER = "later"


@pytest.fixture
def kafka() -> FakeKafka:
    """A broker that takes everything."""
    return FakeKafka()


@pytest.fixture
def make(kafka: FakeKafka, tmp_path: Path) -> Iterator[Make]:
    """Makes emitters on the fake and closes them in the end."""
    made: list[UsageEmitter] = []

    def make(**over: Any) -> UsageEmitter:
        options = {"connect": kafka.connect, **over}
        made.append(UsageEmitter({}, "usage.v1", "gw", tmp_path, **options))
        return made[-1]

    yield make
    for emitter in made:
        emitter.close(0)


def report(tenant: str = "acme", **over: Any) -> dict[str, Any]:
    """A report as a point gives it."""
    return {
        "holder_slot": "slot", "tenant_id": tenant, "budget_ids": ["b"], "period": "d",
        "policy_id": "p", "scope": f"tenant_id={tenant}", "wants": 5, "in_flight_reserved": 2,
        "interim_spend": 1,
    } | over  # fmt: skip


def reports(kafka: FakeKafka) -> list[dict[str, Any]]:
    """Reports that arrived."""
    return [record for record in kafka.topic if "holder" in record]


def test_a_report_goes_behind_the_usage_emitted_so_far(kafka: FakeKafka, make: Make) -> None:
    """It names holder, epoch and the last number under its key, and takes no number itself."""
    emitter = make()
    emitter.emit(plain())
    emitter.emit(plain("other"))
    epoch = emitter.report(report())
    emitter.emit(plain())
    assert emitter.flush() == 0
    assert [r.get("source_seq", "report") for r in kafka.topic] == [1, 1, "report", 2]
    (sent,) = reports(kafka)
    assert (sent["holder"], sent["source_epoch"], sent["last_seq"]) == ("gw", epoch, 1)
    assert (emitter.source, emitter.source_epoch) == ("gw", epoch)


def test_a_report_that_does_not_fit_is_refused(kafka: FakeKafka, make: Make) -> None:
    """A report without a tenant, or with an unknown field, is not taken."""
    emitter = make()
    for fault in ({"tenant_id": None}, {"colour": "red"}):
        with pytest.raises(WireError):
            emitter.report(report(**fault))
    emitter.flush()
    assert kafka.topic == []


def test_a_successor_closes_the_leases_of_the_dead(
    kafka: FakeKafka, make: Make, tmp_path: Path
) -> None:
    """After everything of the dead epoch was delivered, and in its name, with its last number."""
    dead = make()
    kafka.judge = lambda _: LATER
    for _ in range(3):
        dead.emit(plain())
    old = dead.report(report(wants=5))
    dead.report(report("other"))
    dead.report(report("other", closing=True))
    dead.close(0)
    kafka.topic.clear()
    kafka.judge = lambda _: None
    with make():
        until(lambda: any(r["closing"] and r["tenant_id"] == "acme" for r in reports(kafka)))
    closing = [r for r in reports(kafka) if r["closing"] and r["tenant_id"] == "acme"]
    assert [(r["source_epoch"], r["holder"], r["holder_slot"], r["last_seq"]) for r in closing] == [
        (old, "gw", "slot", 3)
    ]
    assert (closing[0]["wants"], closing[0]["in_flight_reserved"]) == (0, 0)
    assert kafka.topic[-1] == closing[0], "it comes behind all that the dead one left"
    assert [r for r in reports(kafka) if r["closing"] and r["tenant_id"] == "other"][1:] == []
    assert list(tmp_path.glob("*/*/*.wal")) == []


def test_a_lease_left_open_outlives_a_delivered_log(
    kafka: FakeKafka, make: Make, tmp_path: Path
) -> None:
    """Closing an emitter whose records were all delivered leaves its open leases to a successor."""
    first = make()
    first.emit(plain())
    old = first.report(report())
    assert first.close() == 0
    assert list(tmp_path.glob("*/*/standing"))
    with make():
        until(lambda: reports(kafka)[-1]["closing"])
    assert (reports(kafka)[-1]["source_epoch"], reports(kafka)[-1]["last_seq"]) == (old, 1)
    assert list(tmp_path.glob("*/*/*")) == []


def test_reports_outlive_the_files_that_held_them(
    kafka: FakeKafka, make: Make, tmp_path: Path
) -> None:
    """Delivered files are deleted; the last number and the open lease are still known."""
    first = make(wal_max_bytes=2**16)
    old = first.report(report())
    for _ in range(100):
        first.emit(plain())
        first.flush()
    until(lambda: not (tmp_path / "gw" / old / "0001.wal").exists())
    first.close()
    with make():
        until(lambda: reports(kafka)[-1]["closing"])
    assert (reports(kafka)[-1]["source_epoch"], reports(kafka)[-1]["last_seq"]) == (old, 100)


def test_a_closed_lease_is_closed_once(kafka: FakeKafka, make: Make, tmp_path: Path) -> None:
    """A process that closed its leases leaves nothing to its successor."""
    first = make()
    first.report(report())
    first.report(report(closing=True))
    assert first.close() == 0
    assert list(tmp_path.glob("*/*/*")) == []
    with make() as second:
        assert second.flush() == 0
    assert len(reports(kafka)) == 2


def test_a_lease_with_nothing_in_it_needs_no_closing(kafka: FakeKafka, make: Make) -> None:
    """A last report that holds and wants nothing leaves nothing to a successor."""
    first = make()
    first.report(report())
    first.report(report(wants=0, in_flight_reserved=0, interim_spend=0))
    assert first.close() == 0
    with make() as second:
        assert second.flush() == 0
    assert not any(r["closing"] for r in reports(kafka))


def test_a_report_without_tenant_goes_beside_the_usage(kafka: FakeKafka, make: Make) -> None:
    """To the leases topic, in its order, with the number of events under all keys."""
    emitter = make()
    for tenant in ("acme", "other", "acme"):
        emitter.emit(plain(tenant))
    emitter.report(report(""))
    emitter.report(report())
    with pytest.raises(WireError, match="missing_tenant"):
        emitter.emit(plain(""))
    assert emitter.flush() == 0
    assert kafka.places == ["usage.v1"] * 3 + ["leases.v1", "usage.v1"]
    assert [(r["tenant_id"], r["last_seq"]) for r in reports(kafka)] == [("", 3), ("acme", 2)]


def test_the_end_of_a_lease_overtakes_no_usage(kafka: FakeKafka, make: Make) -> None:
    """Usage may be on its way to another partition: a closing report waits until it is there."""
    emitter = make()
    kafka.judge = lambda _: LATER
    emitter.report(report(""))
    emitter.emit(plain("acme"))
    emitter.report(report("", closing=True))
    emitter.emit(plain("other"))
    until(lambda: len(kafka.producers[-1]) == 2)
    time.sleep(0.1)
    assert len(kafka.producers[-1]) == 2
    kafka.judge = lambda _: None
    assert emitter.flush() == 0
    assert kafka.places == ["leases.v1", "usage.v1", "leases.v1", "usage.v1"]
    assert [r["closing"] for r in reports(kafka)] == [False, True]


def test_a_successor_closes_leases_that_span_tenants(
    kafka: FakeKafka, make: Make, tmp_path: Path
) -> None:
    """With the sum of all numbers, also of those whose records were delivered and deleted."""
    first = make(wal_max_bytes=2**16)
    old = first.report(report(""))
    for number in range(100):
        first.emit(plain(f"tenant-{number % 3}"))
        first.flush()
    until(lambda: not (tmp_path / "gw" / old / "0001.wal").exists())
    first.close()
    with make():
        until(lambda: reports(kafka)[-1]["closing"])
    closing = reports(kafka)[-1]
    assert (closing["source_epoch"], closing["last_seq"], kafka.places[-1]) == (
        old, 100, "leases.v1",
    )  # fmt: skip
    assert list(tmp_path.glob("*/*/*")) == []


def test_a_missing_leases_topic_holds_up_no_usage(kafka: FakeKafka, make: Make) -> None:
    """Its reports are dropped and that is told once; usage goes on with the same producer."""
    unknown = KafkaError(KafkaError._UNKNOWN_TOPIC)
    kafka.judge = lambda record: unknown if record["tenant_id"] == "" else None
    told: list[EmitterError] = []
    emitter = make(on_error=told.append)
    for _ in range(3):
        emitter.report(report(""))
        emitter.emit(plain())
    assert emitter.flush() == 0
    assert kafka.numbers() == [1, 2, 3]
    assert (emitter.stats().refused, len(told), len(kafka.producers)) == (3, 1, 1)


def test_unreadable_records_stand_for_nothing(tmp_path: Path) -> None:
    """What is no report, and reports about another epoch, are passed over."""
    standing = Standing("e")
    standing.note(0, b"acme", b"garbage")
    foreign = report(holder="gw", source_epoch="another", last_seq=0)
    standing.note(0, b"acme", encode("HolderReport", foreign))
    assert not standing
    wal_standing.write_standing(tmp_path, standing.packed())
    assert list(tmp_path.iterdir()) == []
