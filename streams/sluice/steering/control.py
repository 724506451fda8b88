"""The control topic as it stands: decisions with their evidence, budgets, leases, heartbeats."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from sluice.admission.control_state import ControlState
from sluice.settings import Settings
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records


class Standing:
    """What every admission point knows, and the whole record behind each key.

    `records` holds the newest Decision, BudgetRule and LeaseGrant by control key.
    """

    def __init__(self) -> None:
        self.state = ControlState()
        self.records: dict[bytes, Mapping[str, Any]] = {}

    def take(self, partition: int, key: bytes | None, value: bytes | None, now: int) -> None:
        """Take one message; what an admission point ignores is ignored here, too."""
        applied = self.state.apply(partition, key, value, now)
        if applied is None or applied.kind == "heartbeat":
            return
        if applied.kind == "lifted":
            self.records.pop(applied.key, None)
        elif value is not None:
            self.records[applied.key] = decode(value)[1]


class ControlKey(NamedTuple):
    """What the key of a decision or a lease names; `rest` is the mode, or the period and holder."""

    kind: str
    policy_id: str
    budget_id: str
    scope: str
    rest: tuple[str, ...]


def read_key(key: bytes) -> ControlKey | None:
    """The parts of a key of a decision or a lease; None for any other key."""
    parts = key.decode(errors="replace").split("|")
    if parts[0] == "decision" and len(parts) >= 6:
        # Only values of the scope may hold the separator.
        return ControlKey("decision", parts[1], parts[2], "|".join(parts[4:-1]), (parts[3],))
    if parts[0] == "lease" and len(parts) >= 7:
        return ControlKey("lease", parts[1], parts[2], "|".join(parts[3:-3]), tuple(parts[-3:]))
    return None


def read_control(settings: Settings) -> Standing:
    """The control topic, read from its beginning to its present end; OutsideError without Kafka."""
    standing = Standing()
    now = time.time_ns() // 1000
    for record in committed_records(settings, topics(settings).control):
        standing.take(record.partition, record.key, record.value, now)
    return standing
