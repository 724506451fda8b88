"""Sums of what stored usage cost, per priced class and unit price, for a billing export.

Corrections are summed apart from usage. Cost that no class explains, such as a provider's bill, is
the class `unclassified`, whose quantity is the number of events. Usage without a price has no cost;
it is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sluice.settings import Settings
from sluice.warehouse.client import connect, translated
from sluice.warehouse.usage_rows import json_rows

# A month is closed this long after its end; what comes later is billed in the month it comes in.
CLOSE_HOURS = 72
_DAY_US = 86_400_000_000

# An event's own time is at most a day ahead of what it counts as; it says which days are read.
_STORED = """
    SELECT
        *,
        toStartOfMonth(occurred_at_clamped) AS month,
        if(broker_time < addHours(toDateTime(addMonths(month, 1), 'UTC'), {close_hours:UInt32}),
           month, toStartOfMonth(broker_time)) AS billing_month
    FROM usage_events FINAL
    WHERE occurred_at_clamped >= fromUnixTimestamp64Micro({since:Int64})
      AND occurred_at_clamped < fromUnixTimestamp64Micro({until:Int64})
      AND occurred_at >= fromUnixTimestamp64Micro({since:Int64})
      AND occurred_at < fromUnixTimestamp64Micro({until:Int64}) + INTERVAL 25 HOUR
      AND broker_time < fromUnixTimestamp64Micro({as_of:Int64})
      AND (empty({tenants:Array(String)}) OR has({tenants:Array(String)}, tenant_id))
      AND event_type != 'admission'
      AND ({billing_month:String} = '' OR toString(billing_month) = {billing_month:String})
"""
# Below, <stored> stands for the rows above.
_DAYS = """
SELECT DISTINCT toInt64(toUnixTimestamp(toStartOfDay(occurred_at_clamped))) * 1000000 AS day
FROM usage_events
WHERE occurred_at_clamped >= fromUnixTimestamp64Micro({since:Int64})
  AND occurred_at_clamped < fromUnixTimestamp64Micro({until:Int64})
  AND occurred_at >= fromUnixTimestamp64Micro({since:Int64})
  AND occurred_at < fromUnixTimestamp64Micro({until:Int64}) + INTERVAL 25 HOUR
ORDER BY day
"""
_CHARGES = """
WITH
    event_type = 'correction' AS corrected,
    arrayConcat(
        arrayMap(p -> (toString(p.key), if(p.key = 'unclassified' AND NOT corrected, 1, p.quantity),
                       p.cost_pusd), usage_by_class),
        if(rest != 0, [('unclassified', toInt64(NOT corrected), rest)], [])) AS parts,
    assumeNotNull(cost_pusd) - arraySum(p -> p.cost_pusd, usage_by_class) AS rest,
    if({by_day:Bool}, toDateTime(toStartOfDay(occurred_at_clamped), 'UTC'),
       toDateTime(toStartOfHour(occurred_at_clamped), 'UTC')) AS period
SELECT
    tenant_id, project_id, provider_name, operation_name,
    ifNull(nullIf(response_model, ''), request_model) AS model,
    ifNull(tool_name, '') AS tool,
    ifNull(region, '') AS region_name,
    ifNull(service_tier, '') AS tier,
    ifNull(cost_source, 'estimate') AS said_by,
    ifNull(price_book_version, '') AS book_version,
    if(corrected, 'correction', 'usage') AS kind,
    toInt64(toUnixTimestamp(period)) * 1000000 AS period_start,
    toInt64(toUnixTimestamp(toDateTime(billing_month, 'UTC'))) * 1000000 AS billing_start,
    part.1 AS key,
    if(NOT corrected AND part.2 > 0 AND part.3 >= 0 AND part.3 % part.2 = 0,
       intDiv(part.3, part.2), NULL) AS unit_price,
    toString(sum(toInt256(part.2))) AS quantity_sum,
    toString(sum(toInt256(part.3))) AS cost_sum,
    count() AS events
FROM (<stored> AND cost_pusd IS NOT NULL)
ARRAY JOIN parts AS part
WHERE part.2 != 0 OR part.3 != 0
GROUP BY tenant_id, project_id, provider_name, operation_name, model, tool, region_name, tier,
         said_by, book_version, kind, period_start, billing_start, key, unit_price
ORDER BY tenant_id, project_id, period_start, kind, model, tool, key, billing_start, provider_name,
         operation_name, region_name, tier, said_by, book_version, unit_price
"""
_TOTAL = """
SELECT toString(sum(toInt256(assumeNotNull(cost_pusd)))) AS cost_sum, count() AS events
FROM (<stored> AND cost_pusd IS NOT NULL)
"""
_UNPRICED = """
SELECT tenant_id, ifNull(nullIf(response_model, ''), request_model) AS model, count() AS events,
       sum(toInt256(input_tokens)) AS input_tokens, sum(toInt256(output_tokens)) AS output_tokens
FROM (<stored> AND cost_pusd IS NULL AND event_type != 'correction')
WHERE (tenant_id, event_id) NOT IN (
    SELECT tenant_id, assumeNotNull(corrects_event_id)
    FROM (<stored> AND event_type = 'correction' AND cost_pusd IS NOT NULL))
GROUP BY tenant_id, model ORDER BY tenant_id, model
"""


class ChargeRange(NamedTuple):
    """Usage that occurred from `since` to before `until` and was known before `as_of` (µs UTC).

    `billing_month` (YYYY-MM-01) keeps what is billed in that month only.
    """

    since: int
    until: int
    as_of: int
    tenants: Sequence[str] = ()
    billing_month: str = ""

    def parameters(self) -> dict[str, Any]:
        """Values for the queries' placeholders."""
        return {**self._asdict(), "tenants": list(self.tenants), "close_hours": CLOSE_HOURS}


class Charges:
    """Reads charges; every method raises OutsideError while ClickHouse is away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def rows(self, wanted: ChargeRange, *, by_day: bool) -> Iterator[dict[str, Any]]:
        """Sums per hour or day in a fixed order; amounts are integers, instants µs UTC.

        Asked day by day, so that no result grows with the range.
        """
        days = [row["day"] for row in self._rows(_DAYS, wanted.parameters())]
        for day in days:
            since, until = max(day, wanted.since), min(day + _DAY_US, wanted.until)
            one = wanted._replace(since=since, until=until).parameters()
            for row in self._rows(_CHARGES, one | {"by_day": by_day}):
                amounts = {"quantity": row["quantity_sum"], "cost_pusd": row["cost_sum"]}
                yield row | {name: int(amount) for name, amount in amounts.items()}

    def total(self, wanted: ChargeRange) -> tuple[int, int]:
        """Cost (pico-USD) and number of all priced events and corrections, summed directly."""
        (row,) = self._rows(_TOTAL, wanted.parameters())
        return int(row["cost_sum"]), row["events"]

    def unpriced(self, wanted: ChargeRange) -> list[dict[str, Any]]:
        """Usage without a price, per tenant and model; what a correction priced is not among it."""
        return list(self._rows(_UNPRICED, wanted.parameters()))

    def _rows(self, sql: str, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with translated(self._settings):
            yield from json_rows(self._client, sql.replace("<stored>", _STORED), parameters)
