-- What is left of the budgets that span tenants, and how will their periods end?
-- Amounts are in unit; whose = 'all tenants' where one ledger counts everybody, unless the budget matches less.
-- What is used here is in the budgets of tenants, too: never add the two up.
SELECT policy_id, budget_id, if(scope = '', 'all tenants', scope) AS whose, period, unit, limit_amount,
    settled_amount AS used_amount, reserved_amount + presumed_amount AS granted_amount, remaining_amount, used_ratio,
    forecast_amount, exhausted_at, state, decision_id
FROM budget_state
WHERE tenant_id = ''
ORDER BY used_ratio DESC, policy_id, budget_id, whose
LIMIT 20;
