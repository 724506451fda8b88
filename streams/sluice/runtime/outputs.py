"""What a partition hands to its checkpoint, and where it collects it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sluice.errors import WireError
from sluice.wire.topics import Topics

# A compressed batch may unpack to more than any topic takes; of such a value only the head is kept.
_MAX_DEAD_LETTER_BYTES = 16 * 2**20


class OutRecord(NamedTuple):
    """One record of a checkpoint; `value=None` is a tombstone."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]] | None = None


class Record(Protocol):
    """One consumed record; `timestamp` is the broker's, in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Outbox:
    """Outputs of one partition in their order; `urgent` when a decision waits among them.

    `source` is the topic and partition that records come from; None = usage, of the same number.
    """

    def __init__(self, topics: Topics, number: int, source: tuple[str, int] | None = None) -> None:
        self.topics, self.number = topics, number
        self._source = source or (topics.usage, number)
        self._records: list[OutRecord] = []
        # Broker time (µs) of the record behind the first decision among them.
        self.urgent_since: int | None = None

    @property
    def urgent(self) -> bool:
        """Whether a decision waits."""
        return self.urgent_since is not None

    def take(self) -> list[OutRecord]:
        """Everything since the last call."""
        records, self._records, self.urgent_since = self._records, [], None
        return records

    def row(self, topic: str, tenant_id: str, value: bytes) -> None:
        """A row about a tenant."""
        self.keyed(topic, tenant_id.encode(), value)

    def keyed(self, topic: str, key: bytes, value: bytes) -> None:
        """A row about the tenant whose name is the key."""
        self._records.append(OutRecord(topic, self.number, key, value))

    def partial(self, key: bytes, value: bytes) -> None:
        """This partition's share of a sum that spans tenants."""
        self._records.append(OutRecord(self.topics.partials, 0, key, value))

    def share(self, key: bytes, value: bytes) -> None:
        """This partition's share of a ledger that spans tenants."""
        self._records.append(OutRecord(self.topics.leases, 0, key, value))

    def control(self, key: bytes, value: bytes | None, time: int) -> None:
        """A decision, or with None its end, because of a record of broker time `time` (µs)."""
        self._records.append(OutRecord(self.topics.control, self.number, key, value))
        self.urgent_since = time if self.urgent_since is None else self.urgent_since

    def dead_letter(self, record: Record, error: WireError) -> None:
        """A record that breaks its contract, as it came, with reason and position."""
        value = record.value
        told = {
            "reason": error.reason,
            "detail": error.detail[:500],
            "topic": self._source[0],
            "partition": self._source[1],
            "offset": record.offset,
        }
        if value is not None and len(value) > _MAX_DEAD_LETTER_BYTES:
            told["cut_from_bytes"] = len(value)
            value = value[:_MAX_DEAD_LETTER_BYTES]
        headers: list[tuple[str, str | bytes | None]] = [
            (name, str(text).encode()) for name, text in told.items()
        ]
        self._records.append(OutRecord(self.topics.dlq, 0, record.key or b"", value, headers))
