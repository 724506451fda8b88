"""How a checkpoint ends that the broker refuses, and how its log is read back."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from sluice.errors import SluiceError
from sluice.runtime.checkpoint import Fenced, PartitionLog, _Batches
from sluice.settings import Settings


@pytest.fixture
def log() -> PartitionLog:
    """The log of a partition, not connected to anything."""
    return PartitionLog(Settings(), "meter", ("usage", 3), "state")


@pytest.mark.parametrize(
    "code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED]
)
def test_what_would_be_refused_again_ends_the_process(log: PartitionLog, code: int) -> None:
    """A batch too large, or a principal without the right to write, is not tried for ever."""
    with pytest.raises(SluiceError, match="partition 3 cannot be committed"):
        log._after_failure(KafkaError(code))


def test_a_newer_owner_ends_this_one(log: PartitionLog) -> None:
    """The broker's fence is told from every other failure."""
    with pytest.raises(Fenced):
        log._after_failure(KafkaError(KafkaError.INVALID_PRODUCER_EPOCH))


def test_a_broker_that_is_away_is_asked_again(log: PartitionLog) -> None:
    """A transport failure only costs the producer."""
    log._after_failure(KafkaError(KafkaError._TRANSPORT))
    assert log._producer is None


def test_rows_are_handed_on_in_batches_newest_first_of_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch holds the newest value of each key; tombstones are handed on as well."""
    monkeypatch.setattr("sluice.runtime.checkpoint._BATCH_ROWS", 2)
    taken: list[dict[bytes, bytes]] = []
    batches = _Batches(taken.append)
    for key, value in ((b"a", b"1"), (b"a", b"2"), (b"b", b""), (b"c", b"3")):
        batches.add(key, value)
    batches.flush()
    assert taken == [{b"a": b"2", b"b": b""}, {b"c": b"3"}]
    assert batches.rows == 4
