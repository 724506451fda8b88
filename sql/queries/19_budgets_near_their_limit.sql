-- Which budgets are close to their limit, or over it?
-- state is the rung of the ladder that is in force; decision_id leads to its reason in decisions_log.
-- tenant is 'all tenants' where the budget spans them; then its usage is in their own budgets, too.
SELECT if(tenant_id = '', 'all tenants', tenant_id) AS tenant, budget_id, scope, period, limit_usd, settled_usd,
    remaining_usd, unit, limit_amount, settled_amount, used_ratio, burn_1h, forecast_amount, exhausted_at, state, decision_id
FROM budget_state
ORDER BY used_ratio DESC
LIMIT 20;
