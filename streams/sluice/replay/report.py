"""What a replay did, gathered from its ledgers and from ClickHouse; nothing here draws."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from sluice.replay.ledger import read_lines
from sluice.replay.proof import Proof, Row, Rows
from sluice.replay.run import Replay
from sluice.replay.spending import Spend, spend_of
from sluice.settings import Settings
from sluice.warehouse.client import query_text


class FirstDecision(NamedTuple):
    """The first decision about a tenant in a run: when (µs UTC), what, and why in a sentence."""

    issued_at: int
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class TenantResult:
    """One tenant's line of the result; `first_decision_s` counts from the trace's begin."""

    tenant_id: str
    admitted: int
    refused: int
    input_tokens: int
    output_tokens: int
    cost_pusd: int
    first_action: str = ""
    first_reason: str = ""
    first_decision_s: float | None = None


@dataclass(frozen=True, slots=True)
class AppliedLag:
    """Time from the event that crossed a budget to gateways that obey, in µs."""

    decisions: int
    applied: int
    p50_us: int
    p95_us: int
    p99_us: int
    max_us: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a replay's result shows.

    `counted_pusd` and `stored_pusd` leave out `uncounted` tenants, whose cost was not recounted;
    `difference_pusd` is how far they are apart.
    """

    run_id: str
    project_id: str
    requests: int
    admitted: int
    refused: int
    seconds: float
    restarts: int
    notes: list[str]
    tenants: list[TenantResult]
    applied_lag: AppliedLag | None
    events: int
    counted_pusd: int
    stored_pusd: dict[str, int]
    difference_pusd: int
    spend: Spend
    uncounted: list[str]
    equal: bool
    differences: list[str]
    ledgers: str

    def to_json(self) -> str:
        """The report for programs."""
        return json.dumps(asdict(self), indent=2)


def rows_of(settings: Settings, query: str) -> list[Row]:
    """Rows of a query as dictionaries; 64-bit numbers may come as text."""
    text = query_text(settings, query, "JSONEachRow").decode()
    return [json.loads(line) for line in text.splitlines()]


def gather(replay: Replay, proof: Proof, rows: Rows, notes: list[str]) -> Report:
    """The report of a finished and compared replay."""
    counted, end = proof.counted, replay.end
    refused = Counter(line["tenant_id"] for path in replay.ledgers() for line in read_lines(path)
                      if "refused" in line)  # fmt: skip
    first = first_decisions(rows, replay.begin)
    tenants = [_tenant(tenant, proof, refused[tenant], first.get(tenant), replay.begin)
               for tenant in {*counted.by_tenant, *refused}]  # fmt: skip
    counted_pusd = sum(counted.of(tenant, "cost_pusd") for tenant in counted.by_tenant
                       if tenant not in counted.uncounted)  # fmt: skip
    stored_pusd = _recounted_pusd(proof)
    return Report(
        run_id=replay.run_id, project_id=replay.project_id, requests=end.requests,
        admitted=end.emitted, refused=end.refused, seconds=round(end.seconds, 1),
        restarts=end.restarts, notes=notes,
        tenants=sorted(tenants, key=lambda t: (-t.cost_pusd, t.tenant_id)),
        applied_lag=applied_lag(rows, replay.run_id), events=counted.total("events"),
        counted_pusd=counted_pusd, stored_pusd=stored_pusd,
        difference_pusd=sum(abs(pusd - counted_pusd) for pusd in stored_pusd.values()),
        spend=spend_of(rows, replay.project_id),
        uncounted=sorted(counted.uncounted), equal=proof.equal, differences=proof.differences,
        ledgers=str(replay.folder),
    )  # fmt: skip


def first_decisions(rows: Rows, begin: int) -> dict[str, FirstDecision]:
    """The first restriction of every tenant since `begin` (µs UTC)."""
    since = datetime.fromtimestamp(begin / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    found = rows(
        "SELECT tenant_id, toUnixTimestamp64Micro(issued_at) AS at, action, reason "
        f"FROM decisions_log WHERE issued_at >= toDateTime64('{since}', 6, 'UTC') "
        "AND action != 'allow' AND mode = 'enforce' AND tenant_id IS NOT NULL"
    )
    first: dict[str, FirstDecision] = {}
    for row in found:
        decision = FirstDecision(int(row["at"]), row["action"], row["reason"])
        tenant = row["tenant_id"]
        first[tenant] = min(first.get(tenant, decision), decision)
    return first


def applied_lag(rows: Rows, run_id: str) -> AppliedLag | None:
    """How soon the run's gateways obeyed; None where no decision reached them."""
    (row,) = rows(
        "SELECT uniqExact(decision_id) AS decisions, count() AS applied, "
        "quantileExact(0.5)(lag_us) AS p50_us, quantileExact(0.95)(lag_us) AS p95_us, "
        "quantileExact(0.99)(lag_us) AS p99_us, max(lag_us) AS max_us FROM "
        "(SELECT decision_id, arrayFirst(u -> u.key = 'applied_lag_us', units).value AS lag_us "
        "FROM usage_events FINAL WHERE event_type = 'admission' "
        f"AND startsWith(source, 'replay-{run_id}-') "
        "AND arrayExists(u -> u.key = 'applied_lag_us', units))"
    )
    if not int(row["applied"]):
        return None
    return AppliedLag(**{name: int(value) for name, value in row.items()})


def _recounted_pusd(proof: Proof) -> dict[str, int]:
    """What each table holds of the cost that was recounted."""
    return {
        table: sum(totals.of(tenant, "cost_pusd") for tenant in totals.by_tenant
                   if tenant not in proof.counted.uncounted)
        for table, totals in proof.stored.items()
    }  # fmt: skip


def _tenant(tenant: str, proof: Proof, refused: int, first: FirstDecision | None,
            begin: int) -> TenantResult:  # fmt: skip
    counted = proof.counted
    priced = proof.stored["usage_events"] if tenant in counted.uncounted else counted
    result = TenantResult(
        tenant, counted.of(tenant, "events"), refused, counted.of(tenant, "input_tokens"),
        counted.of(tenant, "output_tokens"), priced.of(tenant, "cost_pusd"),
    )  # fmt: skip
    if first is None:
        return result
    after_s = round((first.issued_at - begin) / 1e6, 1)
    return replace(result, first_action=first.action, first_reason=first.reason,
                   first_decision_s=after_s)  # fmt: skip
