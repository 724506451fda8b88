-- Corrections, newest first: which event was corrected when, from which cost to which, and why.
CREATE OR REPLACE VIEW ${database}.corrections_log ${on_cluster} AS
SELECT
    broker_time AS corrected_at,
    occurred_at,
    tenant_id,
    project_id,
    ifNull(response_model, request_model) AS model,
    ifNull(tool_name, '') AS tool,
    corrects_event_id,
    toDecimal128(original_cost_pusd, 0) * toDecimal128('0.000000000001', 12) AS before_usd,
    toDecimal128(cost_pusd, 0) * toDecimal128('0.000000000001', 12) AS delta_usd,
    ifNull(before_usd, toDecimal128(0, 12)) + delta_usd AS after_usd,
    toDecimal128(tail_pusd, 0) * toDecimal128('0.000000000001', 12) AS tail_delta_usd,
    cost_source,
    nullIf(arrayFirst(attribute -> attribute.key = 'reason', attributes).value, '') AS reason,
    source,
    event_id
FROM ${database}.usage_events FINAL
WHERE event_type = 'correction'
ORDER BY corrected_at DESC, event_id
SETTINGS do_not_merge_across_partitions_select_final = 1;
