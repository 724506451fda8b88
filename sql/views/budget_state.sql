-- Each budget and scope in its newest period: limit, use, what is left, and the rung of the ladder.
-- Amounts are in `unit`; those in USD are NULL where the budget counts something else.
-- tenant_id is empty where a budget spans tenants: what it counts is in their own budgets, too.
CREATE OR REPLACE VIEW ${database}.budget_state ${on_cluster} AS
SELECT
    tenant_id,
    policy_id,
    budget_id,
    scope,
    period,
    any(period_start) AS starts_at,
    any(period_end) AS ends_at,
    any(budget.unit) AS unit,
    sum(toInt128(ifNull(budget.limit, budget.limit_pusd))) AS limit_amount,
    sum(toInt128(ifNull(budget.settled, budget.settled_pusd))) AS settled_amount,
    sum(toInt128(ifNull(budget.reserved, budget.reserved_pusd))) AS reserved_amount,
    sum(toInt128(ifNull(budget.presumed, budget.presumed_pusd))) AS presumed_amount,
    sum(toInt128(ifNull(budget.remaining, budget.remaining_pusd))) AS remaining_amount,
    if(unit = 'pusd', sum(toDecimal128(limit_pusd, 0)) * toDecimal128('0.000000000001', 12), NULL) AS limit_usd,
    if(unit = 'pusd', sum(toDecimal128(settled_pusd, 0)) * toDecimal128('0.000000000001', 12), NULL) AS settled_usd,
    if(unit = 'pusd', sum(toDecimal128(remaining_pusd, 0)) * toDecimal128('0.000000000001', 12), NULL) AS remaining_usd,
    if(limit_amount > 0, toFloat64(settled_amount) / toFloat64(limit_amount), NULL) AS used_ratio,
    any(burn)['5m'] AS burn_5m,
    any(burn)['1h'] AS burn_1h,
    any(burn)['6h'] AS burn_6h,
    any(forecast) AS forecast_amount,
    any(exhausted_at) AS exhausted_at,
    sum(budget.events) AS events,
    sum(budget.unpriced) AS unpriced,
    argMax(state, version) AS state,
    argMax(tuple(decision_id), version).1 AS decision_id,
    max(budget.watermark) AS watermark
FROM
(
    SELECT *, max(period_start) OVER (PARTITION BY tenant_id, policy_id, budget_id, scope) AS newest
    FROM ${database}.budget_ledgers FINAL
) AS budget
WHERE period_start = newest
GROUP BY tenant_id, policy_id, budget_id, scope, period;
