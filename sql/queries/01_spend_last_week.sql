-- Who spent how much in the last seven days?
-- One line per tenant, dearest first. unpriced counts events without a known price: their cost is
-- missing in cost_usd, it is not zero.
SELECT tenant_id, sum(cost_usd) AS cost_usd, sum(events) AS events, sum(unpriced) AS unpriced
FROM spend
WHERE window_start >= now() - INTERVAL 7 DAY
GROUP BY tenant_id
ORDER BY cost_usd DESC
LIMIT 20;
