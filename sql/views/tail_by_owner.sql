-- Who owns the tail: spend, its bands (up to the cohort's median, to its 95th percentile, above) and
-- the overhead, per day, tenant and project. Shares are NULL where nothing was spent.
CREATE OR REPLACE VIEW ${database}.tail_by_owner ${on_cluster} AS
SELECT
    toDate(window_start) AS day,
    tenant_id,
    project_id,
    sum(toDecimal128(cost_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    sum(toDecimal128(body_pusd, 0)) * toDecimal128('0.000000000001', 12) AS body_usd,
    sum(toDecimal128(shoulder_pusd, 0)) * toDecimal128('0.000000000001', 12) AS shoulder_usd,
    sum(toDecimal128(tail_pusd, 0)) * toDecimal128('0.000000000001', 12) AS tail_usd,
    sum(toDecimal128(cost_pusd - overhead_by_cause['first_pass'], 0))
        * toDecimal128('0.000000000001', 12) AS overhead_usd,
    toFloat64(tail_usd) / nullIf(toFloat64(cost_usd), 0) AS tail_share,
    toFloat64(overhead_usd) / nullIf(toFloat64(cost_usd), 0) AS overhead_share,
    sum(usage_windows.events) AS events,
    sum(usage_windows.packaged) AS packaged,
    sum(usage_windows.unlabelled) AS unlabelled
FROM ${database}.usage_windows FINAL
GROUP BY day, tenant_id, project_id
SETTINGS do_not_merge_across_partitions_select_final = 1;
