-- Usage that arrived after its window was final, by day of arrival and day of use: what it adds to
-- days that were already reported. Corrections that arrived late are part of it.
CREATE OR REPLACE VIEW ${database}.late_usage ${on_cluster} AS
SELECT
    toDate(lane) AS arrived_on,
    toDate(window_start) AS day,
    arrived_on - day AS days_late,
    tenant_id,
    project_id,
    sum(usage_windows.events) AS events,
    sum(usage_windows.corrections) AS corrections,
    sum(toDecimal128(cost_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    sum(toDecimal128(corrected_pusd, 0)) * toDecimal128('0.000000000001', 12) AS corrected_usd,
    sum(usage_windows.unpriced) AS unpriced
FROM ${database}.usage_windows FINAL
WHERE lane != ''
GROUP BY arrived_on, day, tenant_id, project_id
SETTINGS do_not_merge_across_partitions_select_final = 1;
