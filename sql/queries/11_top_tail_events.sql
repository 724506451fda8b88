-- Which single events made the tail of the tenant that spent most, in the last seven days?
-- Put a tenant's name in place of the first subquery. times_p95 = how far above the 95th percentile of
-- its cohort the event was; follow trace_id to see what happened.
WITH (SELECT tenant_id FROM spend_by_tenant LIMIT 1) AS chosen
SELECT
    occurred_at,
    project_id,
    ifNull(response_model, request_model) AS model,
    tool_name,
    tail_pusd / 1e12 AS tail_usd,
    cost_pusd / nullIf(baseline_q95_pusd, 0) AS times_p95,
    attempt,
    input_tokens,
    output_tokens,
    outcome,
    task_id,
    trace_id,
    event_id
FROM usage_events FINAL
WHERE tenant_id = chosen AND occurred_at >= now() - INTERVAL 7 DAY AND event_type != 'correction'
ORDER BY tail_pusd DESC
LIMIT 20
SETTINGS do_not_merge_across_partitions_select_final = 1;
