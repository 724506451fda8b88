-- Who burned the error budget of the last seven days, in money, at an SLO of 99 %?
-- budget_usd is what may fail at mean cost, spent_usd what the failures cost; burn 3 = three times the
-- budget. Change slo to the target that was agreed on.
SELECT tenant_id, project_id, events, good_ratio, budget_usd, spent_usd, burn
FROM error_budget(slo = 0.99, since = now() - INTERVAL 7 DAY, until = now())
ORDER BY spent_usd - budget_usd DESC
LIMIT 20;
