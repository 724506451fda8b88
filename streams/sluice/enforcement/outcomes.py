"""What each decision did: refused, delayed, degraded, averted, and its effect on service levels.

A decision is followed from its publication until it expires, is replaced or lifted, and for ten
minutes more, because what admission points did arrives later than they did it. Counts come from
admission events, which carry the decision that they obeyed, and from usage that ran under it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from sluice.enforcement.rings import Rings, StoredRow
from sluice.enforcement.signals.burn import Span
from sluice.enforcement.signals.signal import ratio_ppm
from sluice.enforcement.watch_run import Run, coded
from sluice.metering.quantities import refused_requests
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Coded, Ints

KEEP_US = 600_000_000
DECISION, SERVICE = b"d", b"g"
HOUR = Span("1h", 3_600_000_000)
# Fewer judged requests say nothing about a share.
LEAST_JUDGED = 20
# Scopes whose service level is known before a decision: all that a tenant does.
_WHOLE_TENANT = frozenset({"tenant_id", "priority"})

Ending = Literal["expired", "superseded", "lifted"]

_encode = msgspec.msgpack.Encoder().encode


class Outcome(msgspec.Struct, array_like=True):
    """What one decision did so far; times in µs of broker time.

    `good` of `judged` requests were good under it; `good_before` of `judged_before` were in the
    hour before it began (0 of 0: not known). `ended_at` None = it stands; `dirty` rows wait to be
    published.
    """

    expires_at: int
    good_before: int = 0
    judged_before: int = 0
    refused: int = 0
    delayed: int = 0
    degraded: int = 0
    averted_pusd: int = 0
    good: int = 0
    judged: int = 0
    ended_at: int | None = None
    ended_why: str = ""
    dirty: bool = False


_outcome = msgspec.msgpack.Decoder(Outcome).decode
_stored = msgspec.msgpack.Decoder(StoredRow).decode
_scope = msgspec.msgpack.Decoder(tuple[str, ...]).decode


class Outcomes:
    """Decisions of one partition that stand or ended lately, and its tenants' service levels."""

    def __init__(self) -> None:
        self.rows: dict[str, Outcome] = {}
        self._service = Rings((HOUR,), ("good", "judged"))
        self._pending: list[tuple[str, int, bool]] = []
        self._changed: set[str] = set()

    # ---- decisions

    def begin(self, decision: Mapping[str, Any], time: int) -> None:
        """A decision was published; one that it replaces ends.

        One that only says that requests are admitted again is not followed. A renewal, under the
        same id, moves the end.
        """
        if decision["supersedes"] is not None:
            self.end(decision["supersedes"], "superseded", time)
        if decision["action"] == "allow":
            return
        name = decision["decision_id"]
        outcome = self.rows.get(name)
        if outcome is None:
            before = self._before(decision["scope"], time)
            outcome = self.rows[name] = Outcome(decision["expires_at"], *before)
        outcome.expires_at = decision["expires_at"]
        self._changed.add(name)

    def end(self, decision_id: str, why: Ending, time: int) -> None:
        """A decision is over; nothing happens where it is not known or ended before."""
        outcome = self.rows.get(decision_id)
        if outcome is None or outcome.ended_at is not None:
            return
        outcome.ended_at, outcome.ended_why, outcome.dirty = time, why, True
        self._changed.add(decision_id)

    def end_expired(self, time: int) -> None:
        """End what has expired by `time`, at the time of its expiry."""
        for name, outcome in self.rows.items():
            if outcome.ended_at is None and outcome.expires_at <= time:
                self.end(name, "expired", outcome.expires_at)

    def _before(self, scope: Mapping[str, str | None], time: int) -> tuple[int, int]:
        fields = {name for name, value in scope.items() if value is not None}
        if "tenant_id" not in fields or not fields <= _WHOLE_TENANT:
            return 0, 0
        self._flush()
        row = self._service.rows.get((str(scope["tenant_id"]),), -1)
        good, judged = self._service.totals(np.array([row], dtype=np.int64), time)[0, 0].tolist()
        return good, judged

    # ---- events

    def obeyed(self, event: Mapping[str, Any]) -> None:
        """Count what an admission event says was refused or delayed, and what that averted."""
        outcome = self._of(event)
        if outcome is None:
            return
        refused = refused_requests(event)
        outcome.refused += refused
        outcome.delayed += 0 if refused else _delayed(event)
        averted = outcome.averted_pusd + (event["estimated_cost_pusd"] or 0)
        outcome.averted_pusd = min(averted, INT64_MAX)

    def ran(self, event: Mapping[str, Any], time: int) -> None:
        """Count a usage event: for its tenant's service level, and under the decision it names."""
        good = event["slo_outcome"] == "good"
        if event["slo_outcome"] is not None:
            self._pending.append((event["tenant_id"], time, good))
        self.ran_under(event)

    def ran_under(self, event: Mapping[str, Any]) -> None:
        """Count a usage event under the decision it names, not for its tenant's service level."""
        outcome = self._of(event)
        if outcome is not None:
            outcome.degraded += event["outcome"] == "degraded"
            outcome.judged += event["slo_outcome"] is not None
            outcome.good += event["slo_outcome"] == "good"

    def judge(self, run: Run) -> None:
        """Count a run of events for the service levels of their tenants, and for nothing else."""
        self._flush()
        where = run.judged
        if where.any():
            tenants = Coded(run.tenant.codes[where], run.tenant.values)
            self._add(tenants, run.time[where], run.bad[where])

    def _of(self, event: Mapping[str, Any]) -> Outcome | None:
        name = event["decision_id"]
        outcome = self.rows.get(name) if name is not None else None
        if outcome is not None:
            outcome.dirty = outcome.dirty or outcome.ended_at is not None
            self._changed.add(name)
        return outcome

    def _flush(self) -> None:
        found, self._pending = self._pending, []
        if found:
            tenants, times, good = zip(*found, strict=True)
            bad = ~np.array(good, dtype=np.bool_)
            self._add(coded(tenants), np.array(times, dtype=np.int64), bad)

    def _add(self, tenants: Coded, times: Ints, bad: Bools) -> None:
        amounts = np.stack([~bad, np.ones_like(bad)], axis=1).astype(np.int64)
        self._service.add(self._service.rows_of(tenants, times), times, amounts)

    # ---- rows

    def take_ended(self, version: int) -> Iterator[dict[str, Any]]:
        """DecisionOutcome records of decisions that ended or changed since they ended, by id."""
        for name in sorted(n for n, o in self.rows.items() if o.dirty):
            outcome = self.rows[name]
            outcome.dirty = False
            self._changed.add(name)
            yield record(name, outcome, version)

    def evict(self, time: int) -> None:
        """Forget what ended long ago and was published, and tenants that were silent for long."""
        for name, outcome in list(self.rows.items()):
            ended = outcome.ended_at
            if ended is not None and not outcome.dirty and ended + KEEP_US < time:
                del self.rows[name]
                self._changed.add(name)
        self._flush()
        for scope in self._service.idle(time):
            self._service.drop(scope)

    def next_due(self) -> int | None:
        """Broker time at which a decision expires if nothing comes (µs), or None."""
        return min((o.expires_at for o in self.rows.values() if o.ended_at is None), default=None)

    def is_dirty(self) -> bool:
        """Whether rows of decisions that have ended wait to be published."""
        return any(outcome.dirty for outcome in self.rows.values())

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Stored rows that changed since the last call; None removes a row."""
        self._flush()
        changed, self._changed = sorted(self._changed), set()
        for name in changed:
            outcome = self.rows.get(name)
            yield DECISION + name.encode(), None if outcome is None else _encode(outcome)
        for scope in self._service.take_changed():
            held = scope in self._service.rows
            value = _encode(self._service.stored(scope)) if held else None
            yield SERVICE + _encode(scope), value

    def load(self, key: bytes, value: bytes) -> None:
        """Take one stored row; an empty value removes it."""
        if key[:1] == SERVICE:
            scope = _scope(key[1:])
            self._service.put(scope, _stored(value)) if value else self._service.forget(scope)
        elif value:
            self.rows[key[1:].decode()] = _outcome(value)
        else:
            self.rows.pop(key[1:].decode(), None)


def record(decision_id: str, outcome: Outcome, version: int) -> dict[str, Any]:
    """A DecisionOutcome as it goes on the wire; the decision must have ended."""
    if outcome.ended_at is None:
        raise ValueError(f"decision {decision_id} stands")
    return {
        "decision_id": decision_id,
        "refused": outcome.refused,
        "delayed": outcome.delayed,
        "degraded": outcome.degraded,
        "averted_pusd": outcome.averted_pusd,
        "slo_effect_ppm": slo_effect_ppm(outcome),
        "ended_at": outcome.ended_at,
        "ended_why": outcome.ended_why,
        "version": version,
    }


def slo_effect_ppm(outcome: Outcome) -> int | None:
    """Share of good requests under a decision minus the share before it, parts per million.

    None where either rests on fewer than LEAST_JUDGED requests.
    """
    if min(outcome.judged, outcome.judged_before) < LEAST_JUDGED:
        return None
    before = ratio_ppm(outcome.good_before, outcome.judged_before)
    return ratio_ppm(outcome.good, outcome.judged) - before


def _delayed(event: Mapping[str, Any]) -> int:
    """Requests that an admission event reports as admitted after waiting."""
    queued = any(a["key"] == "action" and a["value"] == "queue" for a in event["attributes"])
    if not queued or event["outcome"] != "ok":
        return 0
    return sum(unit["value"] for unit in event["units"] if unit["key"] == "requests")
