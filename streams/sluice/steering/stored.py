"""What ClickHouse adds, where it answers: older ledgers, past decisions, how soon gateways obey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clickhouse_connect.driver.client import Client

from sluice.errors import SluiceError
from sluice.settings import Settings
from sluice.warehouse.client import connect, translated
from sluice.warehouse.usage_rows import json_rows
from sluice.wire.scopes import scope_text

_BUDGETS = """
SELECT * REPLACE (
    toUnixTimestamp64Micro(period_start) AS period_start,
    toUnixTimestamp64Micro(period_end) AS period_end,
    toUnixTimestamp64Micro(exhausted_at) AS exhausted_at,
    toUnixTimestamp64Micro(watermark) AS watermark)
FROM budget_ledgers FINAL
WHERE {tenant:String} = '' OR tenant_id IN ('', {tenant:String})
"""
_DECISIONS = """
SELECT * REPLACE (
    toUnixTimestamp64Micro(issued_at) AS issued_at,
    toUnixTimestamp64Micro(effective_at) AS effective_at,
    toUnixTimestamp64Micro(expires_at) AS expires_at,
    toUnixTimestamp64Micro(lifted_at) AS lifted_at)
FROM decisions_log
WHERE {id:String} IN ('', decision_id) AND arrayAll(
    part -> has({parts:Array(String)}, part)
        OR NOT has({fields:Array(String)}, splitByChar('=', part)[1]),
    splitByChar(',', scope))
ORDER BY issued_at DESC, sequence DESC
LIMIT {most:UInt32}
"""
_SUCCESSOR = """
SELECT decision_id, toUnixTimestamp64Micro(issued_at) AS issued_at
FROM decisions_log WHERE supersedes = {id:String} ORDER BY issued_at LIMIT 1
"""
_LAG = (
    "SELECT max(p99_us) AS lag_us FROM (SELECT p99_us FROM applied_lag ORDER BY hour DESC LIMIT 24)"
)


class Stored:
    """Questions to ClickHouse; an answer is None where it is away, and `note` then says why."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self.note: str | None = None

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()

    def budget_rows(self, tenant_id: str = "") -> list[dict[str, Any]] | None:
        """The newest row of every ledger, or of a tenant's and those that span tenants."""
        rows = self._ask(_BUDGETS, {"tenant": tenant_id})
        return None if rows is None else [_as_budget_row(row) for row in rows]

    def decisions(
        self, *, decision_id: str = "", scope: Mapping[str, str] | None = None, most: int = 20
    ) -> list[dict[str, Any]] | None:
        """Decisions that can concern `scope`, the newest first, and when each was lifted."""
        pairs = [(name, value) for name, value in (scope or {}).items()]
        return self._ask(_DECISIONS, {
            "id": decision_id, "parts": [scope_text([pair]) for pair in pairs],
            "fields": [name for name, _ in pairs], "most": most,
        })  # fmt: skip

    def successor(self, decision_id: str) -> dict[str, Any] | None:
        """The decision that replaced this one."""
        rows = self._ask(_SUCCESSOR, {"id": decision_id})
        return rows[0] if rows else None

    def loop_delay_us(self) -> int | None:
        """The 99th percentile from a decision's issue to its application, worst of 24 hours."""
        rows = self._ask(_LAG, {})
        return rows[0]["lag_us"] or None if rows else None

    def _ask(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        if self.note is not None:
            return None
        try:
            if self._client is None:
                self._client = connect(self._settings)
            with translated(self._settings):
                return list(json_rows(self._client, sql, dict(parameters)))
        except SluiceError as error:
            self.note = str(error)
            return None


def _as_budget_row(row: dict[str, Any]) -> dict[str, Any]:
    """Lists of records instead of ClickHouse's maps."""
    burn = [{"key": key, "value": value} for key, value in row["burn"].items()]
    return {**row, "burn": burn}
