"""Valid usage events, records and references for tests; every value can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_file import load_policy
from sluice.metering.cohorts import CohortHour
from sluice.metering.columnar.window_rows import row_columns
from sluice.metering.prices import PriceBook, default_book
from sluice.metering.tasks import TaskKey
from sluice.metering.windows import WindowKey
from sluice.runtime.across import Across
from sluice.runtime.governed import Governed
from sluice.runtime.partition import Partition
from sluice.runtime.state import State
from sluice.wire.codec import decode, encode
from sluice.wire.layout import layout
from sluice.wire.topics import Topics

NOW = 1_800_000_000_000_000
MODEL = "replicate/meta/llama-2-7b-chat"
TOPICS = Topics("t.", 4)

POLICY = """
policy_id: test
budgets:
  - budget_id: tenant-day
    scope: [tenant_id]
    unit: usd
    limit: "0.001"
    period: day
    rules:
      - {rule_id: slow, at: 80%, action: rate_limit, rate_per_minute: 30}
      - {rule_id: stop, at: 100%, action: block}
"""


@dataclass
class FakeRecord:
    """A consumed record; `timestamp` in ms like the broker's."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class FakeReferences:
    """Published versions held in a dictionary."""

    def __init__(self, *references: Policy | PriceBook) -> None:
        self.held: dict[tuple[str, str, str], Any] = {}
        self.faulty: set[tuple[str, str, str]] = set()
        for reference in references:
            self.put(reference)

    def put(self, reference: Policy | PriceBook) -> tuple[str, str, str]:
        """Let a version arrive and return its name."""
        kind, ident = (
            ("policy", reference.policy_id)
            if isinstance(reference, Policy)
            else ("price_book", reference.book_id)
        )
        name = (kind, ident, reference.version)
        self.held[name] = reference
        return name

    def get(self, name: tuple[str, str, str]) -> Any:
        return self.held.get(name)

    def is_faulty(self, name: tuple[str, str, str]) -> bool:
        return name in self.faulty


def usage(number: int = 1, **over: Any) -> dict[str, Any]:
    """A complete UsageEvent; `number` is its source_seq and makes its id unique."""
    event: dict[str, Any] = {
        "event_id": f"00000000-0000-7000-8000-{number:012x}",
        "source": "gw", "source_epoch": "e1", "source_seq": number,
        "event_type": "inference", "occurred_at": NOW, "started_at": NOW,
        "timing_quality": "gateway", "tenant_id": "acme", "project_id": "chat",
        "attempt": 1, "step": 0, "depth": 0, "operation_name": "chat",
        "provider_name": "replicate", "request_model": MODEL, "priority": "standard",
        "input_tokens": 100, "cache_read_input_tokens": 0, "cache_write_input_tokens": 0,
        "output_tokens": 100, "reasoning_output_tokens": 0, "rejected_prediction_tokens": 0,
        "usage_source": "provider", "outcome": "ok",
    }  # fmt: skip
    return event | over


def arrived(number: int = 1, **over: Any) -> dict[str, Any]:
    """A usage event as its reader sees it: every field of the schema, defaults filled in."""
    return decode(encode("UsageEvent", usage(number, **over)))[1]


def tick(offset: int, at: int) -> FakeRecord:
    """A record that only moves time."""
    return FakeRecord(offset, at // 1000, None, encode("Tick", {}))


def record(offset: int, event: dict[str, Any] | bytes, *, at: int = NOW, key: str | None = None,
           name: str = "UsageEvent") -> FakeRecord:  # fmt: skip
    """A consumed record holding an event (or raw bytes), keyed by its tenant."""
    if isinstance(event, bytes):
        return FakeRecord(offset, at // 1000, (key or "acme").encode(), event)
    tenant = key if key is not None else event.get("tenant_id", "")
    return FakeRecord(offset, at // 1000, str(tenant).encode(), encode(name, event))


def activate(offset: int, name: tuple[str, str, str], *, at: int = NOW) -> FakeRecord:
    """An Activate record for a published version."""
    kind, ident, version = name
    fields = {"kind": kind, "id": ident, "version": version}
    return FakeRecord(offset, at // 1000, None, encode("Activate", fields))


def policy(text: str = POLICY) -> Policy:
    """A policy from its YAML text."""
    return load_policy(text, "test.yaml")


def partition(
    references: FakeReferences,
    number: int = 0,
    *,
    epoch: int = 1,
    stored: Mapping[bytes, bytes | None] | None = None,
) -> Partition:
    """A partition, empty or with the state rows that were stored."""
    state = State(3_600_000_000, 3_600_000_000)
    state.load({key: value or b"" for key, value in (stored or {}).items()})
    return Partition(TOPICS, number, state, references, epoch=epoch)


def across(
    references: FakeReferences,
    *,
    epoch: int = 1,
    stored: Mapping[bytes, bytes | None] | None = None,
) -> Across:
    """The partition of budgets that span tenants, empty or with stored state rows."""
    state = State(3_600_000_000, 3_600_000_000)
    state.load({key: value or b"" for key, value in (stored or {}).items()})
    return Across(TOPICS, 0, state, references, epoch=epoch)


class Fed:
    """A partition of any kind, fed record by record."""

    def __init__(self, references: FakeReferences, part: Governed, offset: int = 0) -> None:
        self.references, self.part = references, part
        self.offset, self.at = offset, NOW

    def put(self, made: FakeRecord) -> None:
        """Apply one record."""
        assert self.part.apply([made]) == 1
        self.offset += 1

    def switch(self, text: str) -> None:
        """Put a policy in force."""
        name = self.references.put(policy(text))
        self.put(activate(self.offset, name, at=self.at))

    def wait(self, micros: int) -> None:
        """Let time pass."""
        self.at += micros
        self.put(tick(self.offset, self.at))


def governed() -> tuple[Partition, FakeReferences, list[FakeRecord]]:
    """A partition, its references, and the two records that put a book and a policy in force."""
    references = FakeReferences()
    first = activate(0, references.put(default_book()))
    second = activate(1, references.put(policy()))
    return partition(references), references, [first, second]


def window_rows(state: State) -> dict[WindowKey, SimpleNamespace]:
    """Window rows that a state holds, as they would be published now."""
    slots = state.windows.slots()
    columns = row_columns(state.windows, slots, 0, 0)
    return dict(zip(state.windows.keys(slots), _records("WindowRow", columns, len(slots)),
                    strict=True))  # fmt: skip


def task_rows(state: State) -> dict[TaskKey, SimpleNamespace]:
    """Tasks that a state holds, as they would be published now."""
    slots = state.tasks.slots()
    columns = state.tasks.rows(slots, 0)
    return dict(zip(state.tasks.state_keys(slots), _records("TaskRow", columns, len(slots)),
                    strict=True))  # fmt: skip


def cohort_rows(state: State) -> dict[CohortHour, SimpleNamespace]:
    """Cohorts that a state holds, as they would be published now."""
    keys = state.cohorts.hours()
    columns = state.cohorts.columns(keys, 0, 0, 0)
    return dict(zip(keys, _records("CohortRow", columns, len(keys)), strict=True))


def _records(name: str, columns: Any, rows: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(**decode(value)[1]) for value in layout(name).write(columns, rows)]


def sums_of(state: State) -> list[dict[Any, str]]:
    """Every sum of a state, to be compared with what it was or with another's."""
    tables: list[Any] = [window_rows(state), task_rows(state), state.ledgers,
                         cohort_rows(state)]  # fmt: skip
    return [{key: repr(row) for key, row in table.items()} for table in tables]
