-- Which budgets are close to their limit, or over it?
-- state is the rung of the ladder that is in force; decision_id leads to its reason in decisions_log.
SELECT tenant_id, budget_id, period, limit_usd, settled_usd, remaining_usd, used_ratio, state, decision_id
FROM budget_state
ORDER BY used_ratio DESC
LIMIT 20;
