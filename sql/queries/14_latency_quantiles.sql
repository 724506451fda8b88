-- How long do users wait, per tenant and model, in the last 24 hours?
-- p50, p95 and p99 of the total time of an event in seconds, at most 1 % off. Few events make a p99
-- that means little: look at events first.
SELECT
    tenant_id,
    model,
    tool,
    events,
    round(p50_us / 1e6, 3) AS p50_s,
    round(p95_us / 1e6, 3) AS p95_s,
    round(p99_us / 1e6, 3) AS p99_s
FROM latency_quantiles(since = now() - INTERVAL 1 DAY, until = now())
ORDER BY events DESC
LIMIT 20;
