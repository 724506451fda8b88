-- The error budget in money: of N events at their mean cost, (1 - slo) may fail to serve their user;
-- spent is what those that did fail really cost. burn above 1 = more was lost than the SLO allows.
-- Per tenant and project in a period, from the events themselves:
-- SELECT * FROM error_budget(slo = 0.99, since = toStartOfMonth(now()), until = now()).
-- Corrections count with the outcome of the event that they correct.
CREATE OR REPLACE VIEW ${database}.error_budget ${on_cluster} AS
SELECT
    tenant_id,
    project_id,
    countIf(is_usage) AS events,
    countIf(is_usage AND is_good) AS good,
    good / nullIf(events, 0) AS good_ratio,
    countIf(is_usage AND cost_pusd IS NULL) AS unpriced,
    sum(toDecimal128(ifNull(cost_pusd, 0), 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    cost_usd * (1 - {slo:Decimal(9, 6)}) AS budget_usd,
    sumIf(toDecimal128(ifNull(cost_pusd, 0), 0), NOT is_good) * toDecimal128('0.000000000001', 12) AS spent_usd,
    budget_usd - spent_usd AS remaining_usd,
    toFloat64(spent_usd) / nullIf(toFloat64(budget_usd), 0) AS burn
FROM
(
    SELECT
        tenant_id,
        project_id,
        cost_pusd,
        event_type != 'correction' AS is_usage,
        ifNull(slo_outcome = 'good', outcome IN ('ok', 'degraded')) AS is_good
    FROM ${database}.usage_events FINAL
    WHERE event_type != 'admission'
        AND occurred_at >= {since:DateTime64(6, 'UTC')} AND occurred_at < {until:DateTime64(6, 'UTC')}
)
GROUP BY tenant_id, project_id
SETTINGS do_not_merge_across_partitions_select_final = 1;
