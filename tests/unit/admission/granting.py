"""A grantor of leases for tests: the meter's side of the contract, for one holder, in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.builders import FakeRecord
from tests.unit.admission.messages import NOW, Clock, budget_rule, rule_key

from sluice.admission.amounts import used
from sluice.admission.desk_options import DeskOptions
from sluice.admission.point import AdmissionPoint
from sluice.errors import OutsideError
from sluice.runtime.reports import check_report
from sluice.wire.codec import decode, encode

TTL_US = 120_000_000
Record = Mapping[str, Any]


class Running(Clock):
    """A clock that runs, and can be moved on."""

    def __init__(self, now: int = NOW) -> None:
        super().__init__(now)
        self._begun = time.monotonic_ns()

    def __call__(self) -> int:
        return self.now + (time.monotonic_ns() - self._begun) // 1000


class Grantor:
    """An emitter that answers every report at once with what the budget has left.

    `limits` are by budget; `settled` follows from the events that came. With `silent` it grants
    nothing, with `away` it takes nothing.
    """

    source = "gw"

    def __init__(self, clock: Clock, **limits: int) -> None:
        self.clock = clock
        self.limits = limits
        self.source_epoch = "e1"
        self.events: list[Record] = []
        self.reports: list[Record] = []
        self.granted: dict[tuple[str, str, str], int] = {}
        self.silent = self.away = False
        self.point: AdmissionPoint | None = None
        self._sequence = 0
        self._lock = threading.Lock()

    def emit(self, event: Record) -> None:
        """Take usage, as the wire would have it."""
        self._stop_if_away()
        own = {"source": self.source, "source_epoch": self.source_epoch, "end_mark": 90}
        given = {"event_id": "minted", **event, **own}
        self.events.append(decode(encode("UsageEvent", given))[1])

    def report(self, report: Record) -> str:
        """Take a report and publish the grant that follows from it."""
        self._stop_if_away()
        own = {"holder": self.source, "source_epoch": self.source_epoch, "last_seq": 0}
        taken = decode(encode("HolderReport", {**report, **own}))[1]
        record = FakeRecord(0, 0, taken["tenant_id"].encode(), None)
        check_report(record, taken, of_tenants=bool(taken["tenant_id"]))
        self.reports.append(taken)
        if not self.silent:
            self.grant(taken)
        return self.source_epoch

    def _stop_if_away(self) -> None:
        if self.away:
            raise OutsideError("the spool is full")

    def grant(self, report: Record, **over: Any) -> None:
        """Grant what the report wants, as far as the budget goes, as the holder itself counts."""
        with self._lock:
            name = (report["budget_ids"][0], report["scope"], report["period"])
            settled = self.settled(report)
            needed = settled + report["in_flight_reserved"]
            wanted = min(self.limits[name[0]], needed + report["wants"])
            self.granted[name] = max(0, max(needed, wanted) + report["committed"] - settled)
            self._sequence += 1
            sequence = self._sequence
        epoch = over.get("source_epoch", self.source_epoch)
        key = f"lease|p|{name[0]}|{name[1]}|{name[2]}|gw|{epoch}".encode()
        now = self.clock()
        record = {
            "lease_id": f"lease-{name[0]}", "policy_id": "p", "budget_id": name[0], "scope": {},
            "holder": "gw", "period": name[2], "granted_total": self.granted[name],
            "unit": report["unit"], "refresh_after_ms": 5000, "issued_at": now,
            "expires_at": now + TTL_US, "epoch": 1, "sequence": sequence,
            "source_epoch": self.source_epoch,
        }  # fmt: skip
        assert self.point is not None
        value = None if report["closing"] else encode("LeaseGrant", record | over)
        self.point.apply(0, key, value)

    def settled(self, report: Record) -> int:
        """What came under one ledger; the tests have one of each tenant, or one of all."""
        tenant_id = report["tenant_id"]
        events = [event for event in self.events if tenant_id in ("", event["tenant_id"])]
        return sum(used(report["unit"], event) or 0 for event in events)


def reserving(
    grantor: Grantor, *rules: bytes, leases: DeskOptions | None = None, **over: Any
) -> AdmissionPoint:
    """A ready point with these budgets (default: one hard daily budget), fed by the grantor."""
    made = AdmissionPoint(None, grantor, clock=grantor.clock, leases=leases, **over)
    made.adopt(made.empty_state())
    for number, rule in enumerate(rules or (budget_rule(),)):
        made.apply(0, rule_key(f"b{number}"), rule)
    grantor.point = made
    return made


def at_noon(**limits: int) -> Grantor:
    """A grantor with a clock of its own."""
    return Grantor(Running(), **limits)
