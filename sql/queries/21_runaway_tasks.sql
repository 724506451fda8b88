-- Which tasks ran away?
-- Tasks by their cost above the task baseline; steps, retries and loop_share hint at the cause.
SELECT
    tenant_id,
    task_id,
    agent_name,
    started_at,
    round(duration_s) AS seconds,
    steps,
    retries,
    cost_usd,
    task_tail_usd,
    loop_share,
    outcome
FROM tasks
ORDER BY task_tail_usd DESC
LIMIT 20;
