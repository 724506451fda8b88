-- What does a task of each agent cost, and how much of it is loops, in the last seven days?
-- A p99 far above p50 means that few tasks run away; loop_share says whether repetition is the reason.
SELECT
    day,
    tenant_id,
    agent_name,
    tasks,
    p50_usd,
    p95_usd,
    p99_usd,
    usd_per_good_task,
    loop_share
FROM tasks_by_agent
WHERE day > today() - 7
ORDER BY cost_usd DESC
LIMIT 20;
