-- What is each team charged for the last 30 days, with the tail apart from normal use?
-- normal_usd is cost up to the cohort's 95th percentile, tail_usd what lies above; both together are
-- the bill. overhead_usd (retries, loops, abandoned work, ...) is a second view of the same bill.
SELECT
    tenant_id,
    project_id,
    sum(owner.body_usd) + sum(owner.shoulder_usd) AS normal_usd,
    sum(owner.tail_usd) AS tail_usd,
    sum(owner.cost_usd) AS bill_usd,
    sum(owner.overhead_usd) AS overhead_usd,
    round(toFloat64(sum(owner.tail_usd)) / nullIf(toFloat64(sum(owner.cost_usd)), 0), 4) AS tail_share
FROM tail_by_owner AS owner
WHERE day > today() - 30
GROUP BY tenant_id, project_id
ORDER BY bill_usd DESC;
