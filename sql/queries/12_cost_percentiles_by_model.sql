-- What does a typical and an extreme event cost, per model, over the last three days?
-- Histograms are merged first, so the percentiles hold for the whole period and all tenants (at most
-- 1 % off). For other groups, change the two GROUP BY clauses.
SELECT
    model,
    sum(held) AS counted,
    quantileExactWeighted(0.5)(value_usd, toUInt64(greatest(held, 0))) AS p50_usd,
    quantileExactWeighted(0.95)(value_usd, toUInt64(greatest(held, 0))) AS p95_usd,
    quantileExactWeighted(0.99)(value_usd, toUInt64(greatest(held, 0))) AS p99_usd,
    p99_usd / p50_usd AS p99_to_p50
FROM
(
    SELECT model, bucket, any(value_usd) AS value_usd, sum(events) AS held
    FROM cost_buckets
    WHERE window_start >= now() - INTERVAL 3 DAY
    GROUP BY model, bucket
)
GROUP BY model
ORDER BY p99_usd DESC;
