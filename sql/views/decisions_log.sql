-- Decisions, newest first, with the instant at which one was lifted before its expiry. scope is
-- as in budget_state; tenant_id is NULL where a decision spans tenants.
CREATE OR REPLACE VIEW ${database}.decisions_log ${on_cluster} AS
SELECT
    decision.issued_at AS issued_at,
    decision.scope.tenant_id AS tenant_id,
    decision.scope.priority AS priority,
    arrayStringConcat(arrayMap(
        field -> concat(field.1, '=', replaceAll(replaceAll(replaceAll(
            assumeNotNull(field.2), '%', '%25'), ',', '%2C'), '=', '%3D')),
        arrayFilter(field -> field.2 IS NOT NULL, [
            ('api_key_hash', decision.scope.api_key_hash),
            ('end_user_hash', decision.scope.end_user_hash),
            ('model', decision.scope.model),
            ('pool', decision.scope.pool),
            ('priority', decision.scope.priority),
            ('project_id', decision.scope.project_id),
            ('region', decision.scope.region),
            ('task_id', decision.scope.task_id),
            ('tenant_id', decision.scope.tenant_id),
            ('tool_name', decision.scope.tool_name)
        ])
    ), ',') AS scope,
    decision.action AS action,
    decision.mode AS mode,
    decision.reason_code AS reason_code,
    decision.reason AS reason,
    decision.policy_id AS policy_id,
    decision.rule_id AS rule_id,
    decision.policy_version AS policy_version,
    decision.evidence.window AS window,
    decision.evidence.observed AS observed,
    decision.evidence.limit AS threshold,
    decision.evidence.unit AS unit,
    decision.effective_at AS effective_at,
    decision.expires_at AS expires_at,
    nullIf(lift.published_at, toDateTime64(0, 6, 'UTC')) AS lifted_at,
    decision.decision_id AS decision_id,
    decision.supersedes AS supersedes,
    decision.source_partition AS source_partition,
    decision.epoch AS epoch,
    decision.sequence AS sequence
FROM (SELECT * FROM ${database}.decisions FINAL) AS decision
ASOF LEFT JOIN (SELECT * FROM ${database}.decision_lifts FINAL) AS lift
    ON decision.control_key = lift.control_key
    AND decision.source_partition = lift.source_partition
    AND decision.control_offset < lift.control_offset
ORDER BY issued_at DESC, sequence DESC;
