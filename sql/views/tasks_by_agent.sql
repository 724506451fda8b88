-- What an agent's tasks cost, per day of their start, tenant, agent and workflow: mean, percentiles,
-- task tail, loops, and how many served their user (by slo_outcome, else by outcome).
CREATE OR REPLACE VIEW ${database}.tasks_by_agent ${on_cluster} AS
SELECT
    toDate(started_at) AS day,
    tenant_id,
    agent_name,
    workflow_name,
    count() AS tasks,
    countIf(ended) AS ended,
    countIf(ifNull(slo_outcome = 'good', ifNull(outcome IN ('ok', 'degraded'), 0))) AS good,
    sum(task.cost_usd) AS cost_usd,
    toFloat64(cost_usd) / tasks AS usd_per_task,
    toFloat64(cost_usd) / nullIf(good, 0) AS usd_per_good_task,
    (quantilesExactInclusive(0.5, 0.95, 0.99)(toFloat64(task.cost_usd)) AS found)[1] AS p50_usd,
    found[2] AS p95_usd,
    found[3] AS p99_usd,
    sum(task.task_tail_usd) AS task_tail_usd,
    sum(task.loop_usd) AS loop_usd,
    toFloat64(loop_usd) / nullIf(toFloat64(cost_usd), 0) AS loop_share,
    avg(task.steps) AS steps_per_task,
    avg(task.duration_s) AS mean_duration_s
FROM ${database}.tasks AS task
GROUP BY day, tenant_id, agent_name, workflow_name;
