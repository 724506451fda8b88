-- What one unit costs, per day, tenant, project and model. basis 'class': the cost of a priced class
-- per million of its tokens (per hour of gpu_us, per piece of others); basis 'total': all cost per
-- request, per measured GPU hour, per task (tasks have no model). NULL where there was no unit.
CREATE OR REPLACE VIEW ${database}.unit_cost ${on_cluster} AS
SELECT
    day,
    tenant_id,
    project_id,
    model,
    basis,
    unit,
    per,
    quantity,
    cost_usd,
    toFloat64(cost_usd) * per / nullIf(quantity, 0) AS usd_per_unit
FROM
(
    SELECT
        toDate(window_start) AS day,
        tenant_id,
        project_id,
        model,
        'class' AS basis,
        class AS unit,
        multiIf(match(unit, '^(input|output|reasoning|cache_)'), toInt64(1000000), unit = 'gpu_us', toInt64(3600000000), toInt64(1)) AS per,
        sum(amount) AS quantity,
        sum(toDecimal128(class_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd
    FROM ${database}.usage_windows FINAL
    ARRAY JOIN
        usage_by_class.key AS class,
        usage_by_class.quantity AS amount,
        usage_by_class.cost_pusd AS class_pusd
    GROUP BY day, tenant_id, project_id, model, unit
    UNION ALL
    SELECT
        toDate(window_start) AS day, tenant_id, project_id, model, 'total', 'request', toInt64(1),
        sum(requests),
        sumIf(toDecimal128(cost_pusd, 0), requests > 0) * toDecimal128('0.000000000001', 12)
    FROM ${database}.usage_windows FINAL
    GROUP BY day, tenant_id, project_id, model
    UNION ALL
    SELECT
        toDate(window_start) AS day, tenant_id, project_id, model, 'total', 'gpu_us', toInt64(3600000000),
        sum(gpu_us),
        sum(toDecimal128(cost_pusd, 0)) * toDecimal128('0.000000000001', 12)
    FROM ${database}.usage_windows FINAL
    WHERE gpu_us IS NOT NULL
    GROUP BY day, tenant_id, project_id, model
    UNION ALL
    SELECT
        toDate(started_at) AS day, tenant_id, project_id, '', 'total', 'task', toInt64(1),
        toInt64(count()), sum(task.cost_usd)
    FROM ${database}.tasks AS task
    GROUP BY day, tenant_id, project_id
)
SETTINGS do_not_merge_across_partitions_select_final = 1;
