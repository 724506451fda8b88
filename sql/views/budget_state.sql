-- Each budget in its newest period: limit, spend, what is left, and the rung of the ladder.
CREATE OR REPLACE VIEW ${database}.budget_state ${on_cluster} AS
SELECT
    tenant_id,
    policy_id,
    budget_id,
    period,
    any(period_start) AS starts_at,
    any(period_end) AS ends_at,
    sum(toDecimal128(limit_pusd, 0)) * toDecimal128('0.000000000001', 12) AS limit_usd,
    sum(toDecimal128(settled_pusd, 0)) * toDecimal128('0.000000000001', 12) AS settled_usd,
    sum(toDecimal128(remaining_pusd, 0)) * toDecimal128('0.000000000001', 12) AS remaining_usd,
    if(limit_usd > 0, toFloat64(settled_usd) / toFloat64(limit_usd), NULL) AS used_ratio,
    sum(budget.events) AS events,
    sum(budget.unpriced) AS unpriced,
    argMax(state, version) AS state,
    argMax(tuple(decision_id), version).1 AS decision_id,
    max(budget.watermark) AS watermark
FROM
(
    SELECT *, max(period_start) OVER (PARTITION BY tenant_id, policy_id, budget_id) AS newest
    FROM ${database}.budget_states FINAL
) AS budget
WHERE period_start = newest
GROUP BY tenant_id, policy_id, budget_id, period;
