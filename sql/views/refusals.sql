-- What admission points refused: how often, why, under which decision, and what it would have cost.
CREATE OR REPLACE VIEW ${database}.refusals ${on_cluster} AS
SELECT
    tenant_id,
    project_id,
    arrayFirst(attribute -> attribute.key = 'action', attributes).value AS action,
    error_type AS reason_code,
    decision_id,
    sum(arraySum(arrayMap(unit -> if(unit.key = 'requests', unit.value, 0), units))) AS requests,
    sum(toDecimal128(ifNull(estimated_cost_pusd, 0), 0)) * toDecimal128('0.000000000001', 12) AS averted_usd,
    min(occurred_at) AS first_at,
    max(occurred_at) AS last_at
FROM ${database}.usage_events FINAL
WHERE event_type = 'admission' AND outcome != 'ok'
GROUP BY tenant_id, project_id, action, reason_code, decision_id
SETTINGS do_not_merge_across_partitions_select_final = 1;
