-- When is the money spent: the last 48 hours, hour by hour?
-- per_minute_usd is the rate of spend; a single hour that stands out is where to look first.
SELECT
    toStartOfHour(window_start) AS hour,
    sum(cost_usd) AS spent_usd,
    toFloat64(spent_usd) / 60 AS per_minute_usd,
    sum(events) AS counted
FROM spend
WHERE window_start >= toStartOfHour(now()) - INTERVAL 48 HOUR
GROUP BY hour
ORDER BY hour;
