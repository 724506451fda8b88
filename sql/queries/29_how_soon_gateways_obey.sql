-- How long from a decision to the gateways that obey it, per hour?
-- p99_us is the figure to watch: during that time a tenant can still overspend.
SELECT hour, applied, decisions, p50_us, p95_us, p99_us, max_us
FROM applied_lag
ORDER BY hour DESC
LIMIT 24;
