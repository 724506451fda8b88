"""Ledgers of budgets as their newest rows tell them: limit, spend, what is left, what comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.steering.amounts import whose
from sluice.wire.scopes import scope_fields

_AMOUNTS = ("limit", "settled", "reserved", "presumed", "corrected", "remaining")
_WINDOW_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class LedgerName(NamedTuple):
    """One budget about one scope."""

    policy_id: str
    budget_id: str
    scope: str


@dataclass(frozen=True, slots=True)
class LedgerView:
    """One ledger in one period; amounts are in `unit`, instants µs UTC, None = not measured.

    `tenant_id` is empty where it is one of all tenants together.
    """

    name: LedgerName
    tenant_id: str
    period: str
    period_start: int
    period_end: int
    unit: str
    limit: int
    settled: int
    reserved: int
    presumed: int
    corrected: int
    remaining: int
    events: int
    unpriced: int
    burn: Mapping[str, int]
    forecast: int | None
    exhausted_at: int | None
    state: str
    decision_id: str | None
    watermark: int

    @property
    def spans_tenants(self) -> bool:
        """Whether usage of all tenants counts."""
        return not self.tenant_id

    @property
    def whose(self) -> str:
        """Its scope for people."""
        return whose(self.name.scope, self.tenant_id)

    @property
    def fields(self) -> dict[str, str]:
        """Fields that its usage has in common: those of its scope, and its tenant."""
        tenant = {"tenant_id": self.tenant_id} if self.tenant_id else {}
        return {**scope_fields(self.name.scope), **tenant}

    def as_dict(self) -> dict[str, Any]:
        """The ledger for programs."""
        rest = {field: getattr(self, field) for field in self.__slots__ if field != "name"}
        return {**self.name._asdict(), **rest, "burn": dict(self.burn)}

    def burn_per_s(self) -> tuple[int, str] | None:
        """The highest rate of use per second, rounded up, and where it was seen.

        The look-back windows of the row tell it, else the mean of the period so far; None where
        nothing was used.
        """
        rates = [(-(-used // seconds), window) for window, used in self.burn.items()
                 if used > 0 and (seconds := _seconds(window))]  # fmt: skip
        passed_us = self.watermark - self.period_start
        if not rates and self.settled > 0 and passed_us > 0:
            rates = [(-(-self.settled * 1_000_000 // passed_us), "period")]
        return max(rates, default=None)


class Ledgers:
    """Rows as they come, of which the newest per ledger, period and shard counts."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows: dict[tuple[LedgerName, str], dict[int, Mapping[str, Any]]] = {}
        for row in rows:
            self.put(row)

    def put(self, row: Mapping[str, Any]) -> None:
        """Take a BudgetRow; one with a smaller version than what is held changes nothing."""
        name = LedgerName(row["policy_id"], row["budget_id"], row["scope"])
        shards = self._rows.setdefault((name, row["period"]), {})
        held = shards.get(row["shard"])
        if held is None or row["version"] >= held["version"]:
            shards[row["shard"]] = row

    def current(self) -> list[LedgerView]:
        """Every ledger in its newest period, in the order of their names."""
        newest: dict[LedgerName, LedgerView] = {}
        for (name, _), shards in self._rows.items():
            view = _view(name, list(shards.values()))
            held = newest.get(name)
            if held is None or view.period_start > held.period_start:
                newest[name] = view
        return [newest[name] for name in sorted(newest)]


def _view(name: LedgerName, shards: list[Mapping[str, Any]]) -> LedgerView:
    """One ledger out of the rows of its shards; the newest row says the state."""
    newest = max(shards, key=lambda row: int(row["version"]))
    unit = newest.get("unit") or "pusd"
    amounts: dict[str, Any] = {
        field: sum(_amount(row, field) for row in shards) for field in _AMOUNTS
    }
    return LedgerView(
        name=name,
        tenant_id=newest["tenant_id"],
        period=newest["period"],
        period_start=newest["period_start"],
        period_end=newest["period_end"],
        unit=unit,
        **amounts,
        events=sum(row["events"] for row in shards),
        unpriced=sum(row["unpriced"] for row in shards),
        burn=_burn(shards),
        forecast=_forecast(shards, unit),
        exhausted_at=newest["exhausted_at"],
        state=newest["state"],
        decision_id=newest["decision_id"],
        watermark=max(row["watermark"] for row in shards),
    )


def _amount(row: Mapping[str, Any], field: str) -> int:
    """An amount in the row's unit; rows from before units have it in pico-USD only."""
    amount = row.get(field)
    return int(row[f"{field}_pusd"] if amount is None else amount)


def _forecast(shards: list[Mapping[str, Any]], unit: str) -> int | None:
    """The sum of what shards expect; None where one cannot say."""
    total = 0
    for row in shards:
        expected = row.get("forecast")
        if expected is None and unit == "pusd":
            expected = row["forecast_pusd"]
        if expected is None:
            return None
        total += expected
    return total


def _burn(shards: list[Mapping[str, Any]]) -> dict[str, int]:
    burn: dict[str, int] = {}
    for row in shards:
        for item in row["burn"]:
            burn[item["key"]] = burn.get(item["key"], 0) + item["value"]
    return burn


def _seconds(window: str) -> int:
    """Length of a look-back window such as 5m; 0 where it is none."""
    number, unit = window[:-1], window[-1:]
    return int(number) * _WINDOW_S.get(unit, 0) if number.isdigit() else 0
