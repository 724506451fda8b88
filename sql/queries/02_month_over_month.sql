-- How does this month compare with the last one, up to the same moment of the month?
-- growth 0.25 = a quarter more than last month by this time; NULL = nothing was spent then.
WITH
    toStartOfMonth(today()) AS this_month,
    addMonths(this_month, -1) AS last_month,
    addMonths(today(), -1) AS same_day
SELECT
    tenant_id,
    sumIf(cost_usd, day >= this_month) AS this_month_usd,
    sumIf(cost_usd, day >= last_month AND day <= same_day) AS last_month_usd,
    toFloat64(this_month_usd) / nullIf(toFloat64(last_month_usd), 0) - 1 AS growth
FROM tail_by_owner
WHERE day >= last_month
GROUP BY tenant_id
ORDER BY this_month_usd DESC
LIMIT 20;
