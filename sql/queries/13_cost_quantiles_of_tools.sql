-- Which tools have the dearest calls today, per tenant?
-- p50, p95 and p99 of the cost of one event in the last 24 hours, at most 1 % off.
SELECT tenant_id, model, tool, events, p50_usd, p95_usd, p99_usd
FROM cost_quantiles(since = now() - INTERVAL 1 DAY, until = now())
WHERE tool != ''
ORDER BY p99_usd DESC
LIMIT 20;
