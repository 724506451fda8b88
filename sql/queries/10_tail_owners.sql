-- Who owns the tail of the last seven days?
-- Owners by money in the tail. unlabelled_share = events without any baseline: their cost counts as
-- body, so a high share means that the tail is understated.
SELECT
    tenant_id,
    project_id,
    sum(tail_usd) AS in_tail_usd,
    toFloat64(in_tail_usd) / nullIf(toFloat64(sum(cost_usd)), 0) AS share_of_spend,
    sum(unlabelled) / nullIf(sum(events), 0) AS unlabelled_share
FROM tail_by_owner
WHERE day > today() - 7
GROUP BY tenant_id, project_id
ORDER BY in_tail_usd DESC
LIMIT 20;
