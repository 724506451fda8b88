-- The task rows of the events of one day; a task that goes on past midnight has a part per day.
INSERT INTO ${database}.usage_tasks
(
    tenant_id, task_id, opened_at, project_id, agent_name, workflow_name, events, steps, tool_calls,
    depth, fan_out, retries, input_tokens, output_tokens, cost_pusd, unpriced, tail_pusd, loop_pusd,
    baseline_pusd, task_tail_pusd, loop_score_ppm, outcome, slo_outcome, ended, started_at,
    last_seen_at, caps, version
)
SELECT
    tenant_id, task_id,
    min(broker_time), argMin(project_id, occurred_at), argMin(agent_name, occurred_at), NULL,
    countIf(event_type != 'correction'),
    uniqExact(step),
    countIf(event_type = 'tool'),
    0, 1,
    countIf(attempt > 1 AND event_type != 'correction'),
    sum(input_tokens), sum(output_tokens),
    sum(cost_pusd) AS cost, sum(unpriced), sum(tail_pusd),
    sumIf(cost_pusd, has(risk_flags, 'loop')),
    50000000000, greatest(ifNull(cost, 0) - 50000000000, 0),
    if(max(has(risk_flags, 'loop')), 900000, 0),
    argMax(outcome, occurred_at), argMax(slo_outcome, occurred_at),
    true, min(started_at), max(occurred_at), map('max_steps', 200), max(source_offset) + 1
FROM ${database}.usage_events AS events
WHERE toDate(occurred_at) = {day:Date} AND task_id IS NOT NULL
GROUP BY tenant_id, task_id;
