-- What does one request, one agent task and one measured GPU hour cost, per tenant?
-- All cost of the last seven days divided by the number of units; per converts gpu_us into hours.
SELECT
    tenant_id,
    unit,
    sum(quantity) / any(per) AS units,
    sum(daily.cost_usd) AS cost_usd,
    toFloat64(sum(daily.cost_usd)) / nullIf(units, 0) AS usd_per_unit
FROM unit_cost AS daily
WHERE day > today() - 7 AND basis = 'total'
GROUP BY tenant_id, unit
ORDER BY tenant_id, unit;
