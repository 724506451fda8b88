-- What decisions that have ended did: refused, delayed, degraded, averted, and the service level.
CREATE OR REPLACE VIEW ${database}.decision_effects ${on_cluster} AS
SELECT
    outcome.decision_id AS decision_id,
    decision.tenant_id AS tenant_id,
    decision.policy_id AS policy_id,
    decision.rule_id AS rule_id,
    decision.action AS action,
    decision.reason_code AS reason_code,
    decision.issued_at AS issued_at,
    outcome.ended_at AS ended_at,
    outcome.ended_why AS ended_why,
    outcome.refused AS refused,
    outcome.delayed AS delayed,
    outcome.degraded AS degraded,
    toDecimal128(outcome.averted_pusd, 0) * toDecimal128('0.000000000001', 12) AS averted_usd,
    outcome.slo_effect_ppm AS slo_effect_ppm
FROM (SELECT * FROM ${database}.decision_outcomes FINAL) AS outcome
LEFT JOIN
(
    SELECT
        decision_id, any(scope.tenant_id) AS tenant_id, any(policy_id) AS policy_id,
        any(rule_id) AS rule_id, any(action) AS action, any(reason_code) AS reason_code,
        min(issued_at) AS issued_at
    FROM ${database}.decisions FINAL
    GROUP BY decision_id
) AS decision ON outcome.decision_id = decision.decision_id;
