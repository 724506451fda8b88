-- Who crowded out others on a model, in the last 24 hours?
-- Minutes in which one tenant had far more than an equal share; noisy = the others also waited more
-- than twice their usual time. Coincidence in time, not proof: look at the pool before acting.
SELECT
    model,
    tenant_id,
    countIf(noisy) AS noisy_minutes,
    count() AS leading_minutes,
    round(avg(share / fair_share), 2) AS times_fair_share,
    round(avg(fairness), 3) AS mean_fairness,
    round(avgIf(others_queue_us, noisy) / 1e3) AS others_waited_ms,
    round(any(usual_queue_us) / 1e3) AS usual_ms
FROM noisy_neighbours(since = now() - INTERVAL 1 DAY, until = now())
GROUP BY model, tenant_id
ORDER BY noisy_minutes DESC, leading_minutes DESC
LIMIT 20;
