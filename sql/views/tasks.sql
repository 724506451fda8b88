-- Agent tasks, their parts added up: cost, cost above the task's baseline (task_tail_usd; never add
-- it to tail_usd, which sums the tails of single events), the share spent while repeating itself.
-- slo_outcome and outcome are those of the last part with usage; duration includes silence between
-- parts. A correction of a task that is long over moves its cost, and leaves its task tail as it was.
CREATE OR REPLACE VIEW ${database}.tasks ${on_cluster} AS
SELECT
    tenant_id,
    task_id,
    argMin(part.project_id, part.opened_at) AS project_id,
    argMin(tuple(part.agent_name), part.opened_at).1 AS agent_name,
    argMin(tuple(part.workflow_name), part.opened_at).1 AS workflow_name,
    min(part.started_at) AS started_at,
    max(part.last_seen_at) AS last_seen_at,
    dateDiff('microsecond', started_at, last_seen_at) / 1000000 AS duration_s,
    count() AS parts,
    sum(part.events) AS events,
    sum(part.steps) AS steps,
    sum(part.tool_calls) AS tool_calls,
    max(part.depth) AS depth,
    max(part.fan_out) AS fan_out,
    sum(part.retries) AS retries,
    sum(part.input_tokens) AS input_tokens,
    sum(part.output_tokens) AS output_tokens,
    sum(toDecimal128(part.cost_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    sum(part.unpriced) AS unpriced,
    sum(toDecimal128(part.tail_pusd, 0)) * toDecimal128('0.000000000001', 12) AS tail_usd,
    sum(toDecimal128(part.task_tail_pusd, 0)) * toDecimal128('0.000000000001', 12) AS task_tail_usd,
    sum(toDecimal128(part.loop_pusd, 0)) * toDecimal128('0.000000000001', 12) AS loop_usd,
    toFloat64(loop_usd) / nullIf(toFloat64(cost_usd), 0) AS loop_share,
    max(part.loop_score_ppm) / 1000000 AS loop_score,
    argMaxIf(tuple(part.outcome), part.opened_at, part.events > 0).1 AS outcome,
    argMaxIf(tuple(part.slo_outcome), part.opened_at, part.events > 0).1 AS slo_outcome,
    argMaxIf(part.ended, part.opened_at, part.events > 0) AS ended
FROM ${database}.usage_tasks AS part FINAL
GROUP BY tenant_id, task_id;
