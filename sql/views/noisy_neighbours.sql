-- Who crowds out others: per model and minute the tenant with the most work, its share beside the
-- fair share (an equal part for each tenant that was active), Jain's index of fairness (1 = even,
-- 1/tenants = one has everything), and how long the others waited beside what they usually wait
-- (median of the minutes in the period). Work is measured GPU time, else tokens (input + 2 * output).
-- noisy = above 1.5 times its fair share while the others waited more than twice the usual time. That
-- is coincidence in time, not proof of cause: no weights or entitlements are known here.
-- SELECT * FROM noisy_neighbours(since = now() - INTERVAL 1 DAY, until = now()) WHERE noisy
CREATE OR REPLACE VIEW ${database}.noisy_neighbours ${on_cluster} AS
SELECT
    model,
    window_start,
    length(works) AS tenants,
    tenant_id,
    largest / total AS share,
    1 / tenants AS fair_share,
    largest_cost / nullIf(total_cost, 0) AS cost_share,
    total * total / (tenants * arraySum(work -> work * work, works)) AS fairness,
    others_queue_us,
    usual_queue_us,
    ifNull(share > 1.5 * fair_share AND others_queue_us > 2 * usual_queue_us, 0) AS noisy
FROM
(
    SELECT
        model,
        window_start,
        argMax(tenant_id, work) AS tenant_id,
        groupArray(work) AS works,
        max(work) AS largest,
        arraySum(works) AS total,
        toFloat64(argMax(cost_pusd, work)) AS largest_cost,
        toFloat64(sum(cost_pusd)) AS total_cost,
        (sum(queue_us) - argMax(ifNull(queue_us, 0), work))
            / nullIf(sum(queued) - argMax(queued, work), 0) AS others_queue_us,
        medianExact(others_queue_us) OVER (PARTITION BY model) AS usual_queue_us
    FROM
    (
        SELECT
            model,
            window_start,
            tenant_id,
            toFloat64(ifNull(sum(gpu_us), sum(input_tokens + 2 * output_tokens))) AS work,
            sum(toInt128(stored.cost_pusd)) AS cost_pusd,
            sum(stored.queue_us) AS queue_us,
            sumIf(events, stored.queue_us IS NOT NULL) AS queued
        FROM ${database}.usage_windows AS stored FINAL
        WHERE window_start >= {since:DateTime64(6, 'UTC')} AND window_start < {until:DateTime64(6, 'UTC')}
        GROUP BY model, window_start, tenant_id
        HAVING work > 0
    )
    GROUP BY model, window_start
    HAVING length(works) > 1
)
SETTINGS do_not_merge_across_partitions_select_final = 1;
