-- What did retries and hedged duplicates cost last week, and whom?
-- share = of all that the tenant spent. Above a tenth, look for a retry storm.
SELECT
    tenant_id,
    sumIf(caused_usd, cause = 'retry') AS retry_usd,
    sumIf(caused_usd, cause = 'hedge') AS hedge_usd,
    toFloat64(retry_usd + hedge_usd) / nullIf(toFloat64(sum(caused_usd)), 0) AS share
FROM tail_by_cause
WHERE window_start >= toStartOfWeek(now(), 1) - INTERVAL 7 DAY
GROUP BY tenant_id
HAVING retry_usd + hedge_usd > 0
ORDER BY retry_usd + hedge_usd DESC
LIMIT 20;
