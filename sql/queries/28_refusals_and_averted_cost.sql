-- What was refused, under which decision, and what would it have cost?
-- averted_usd is an estimate made at admission; requests that were tried again count each time.
SELECT tenant_id, action, reason_code, sum(refusals.requests) AS requests, sum(refusals.averted_usd) AS averted_usd,
    uniqExact(decision_id) AS decisions
FROM refusals
GROUP BY tenant_id, action, reason_code
ORDER BY averted_usd DESC
LIMIT 20;
