-- What is the price of the 99th percentile: how much money goes into the dearest hundredth?
-- above_usd is what the events above the threshold cost; share_above of all spend. With measure
-- 'latency' the threshold is in microseconds: what the slowest hundredth cost.
SELECT
    measure,
    tenant_id,
    model,
    threshold,
    unit,
    events_above,
    above_usd,
    share_above
FROM price_of_percentile(since = now() - INTERVAL 1 DAY, until = now())
WHERE percentile = 99 AND events >= 100
ORDER BY above_usd DESC
LIMIT 20;
