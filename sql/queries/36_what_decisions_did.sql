-- What did decisions do until they ended: refused, delayed, degraded, averted, and the effect on service?
-- slo_effect_ppm: share of good requests under it minus the share in the hour before, parts per million.
SELECT ended_at, ifNull(tenant_id, 'all tenants') AS tenant, policy_id, rule_id, action, refused, delayed, degraded,
    averted_usd, slo_effect_ppm, ended_why
FROM decision_effects
ORDER BY averted_usd DESC, ended_at DESC
LIMIT 20;
