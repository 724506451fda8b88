-- What an outcome that served its user costs, everything that did not serve included; and the SLO
-- tax: tail per good outcome. Per day, tenant, project, model and tool; NULL where nothing was good.
CREATE OR REPLACE VIEW ${database}.cost_per_good_outcome ${on_cluster} AS
SELECT
    toDate(window_start) AS day,
    tenant_id,
    project_id,
    model,
    tool,
    sum(usage_windows.events) AS events,
    sum(usage_windows.good) AS good,
    sum(usage_windows.unpriced) AS unpriced,
    sum(toDecimal128(cost_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    sum(toDecimal128(tail_pusd, 0)) * toDecimal128('0.000000000001', 12) AS tail_usd,
    good / nullIf(events, 0) AS good_ratio,
    toFloat64(cost_usd) / nullIf(good, 0) AS usd_per_good,
    toFloat64(tail_usd) / nullIf(good, 0) AS tail_usd_per_good
FROM ${database}.usage_windows FINAL
WHERE usage_windows.events > 0 OR cost_pusd != 0
GROUP BY day, tenant_id, project_id, model, tool
SETTINGS do_not_merge_across_partitions_select_final = 1;
