"""What an emitter tells about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice.wire.wal_frames import Damage


@dataclass(frozen=True, slots=True)
class EmitterError:
    """Something went wrong behind `emit`: `code` is Kafka's name of it, or one of the emitter's.

    WAL_DAMAGED: a log taken over had unreadable stretches; WAL_IO: a file of the log could not be
    read or written; INTERNAL: a fault of the sending thread, which goes on. `key` and `source_seq`
    name the record where it is about one.
    """

    code: str
    message: str
    key: bytes | None = None
    source_seq: int | None = None


@dataclass(frozen=True, slots=True)
class EmitterStats:
    """Counts since the emitter was made (in a forked child: since its first event).

    `emitted`: events and reports taken; `recovered`: records taken over from former processes;
    `acknowledged`: of both, delivered; `refused`: of both, set aside because Kafka takes them
    never; `pending`: the rest. `resent`: records handed to Kafka again. `unsent_bytes`: not yet
    handed to Kafka, `wal_bytes`: on disk. `spool_full`: calls that raised SpoolFull.
    """

    emitted: int
    recovered: int
    acknowledged: int
    refused: int
    pending: int
    resent: int
    unsent_bytes: int
    wal_bytes: int
    spool_full: int
    delivery_errors: Mapping[str, int]
    damage: Damage
    last_error: EmitterError | None


@dataclass(slots=True)
class Counts:
    """The counters behind EmitterStats; each is written by one thread only."""

    emitted: int = 0
    recovered: int = 0
    acknowledged: int = 0
    refused: int = 0
    resent: int = 0
    spool_full: int = 0
    delivery_errors: Counter[str] = field(default_factory=Counter)
    damage: Damage = field(default_factory=Damage)
    last_error: EmitterError | None = None

    @property
    def pending(self) -> int:
        """Records that Kafka neither acknowledged nor refused."""
        return self.emitted + self.recovered - self.acknowledged - self.refused

    def stats(self, unsent_bytes: int, wal_bytes: int) -> EmitterStats:
        """A copy for the outside."""
        return EmitterStats(
            emitted=self.emitted, recovered=self.recovered, acknowledged=self.acknowledged,
            refused=self.refused, pending=self.pending, resent=self.resent,
            unsent_bytes=unsent_bytes, wal_bytes=wal_bytes, spool_full=self.spool_full,
            delivery_errors=dict(self.delivery_errors),
            damage=self.damage, last_error=self.last_error,
        )  # fmt: skip
