-- A report as it was: spend per day, tenant, project, model and tool from the events that had arrived
-- by an instant; what arrived afterwards, corrections too, is not in it and never will be. An event
-- that was sent again counts from its first arrival.
-- SELECT * FROM spend_as_of(as_of = '2026-10-02 06:00:00') WHERE day >= '2026-09-01' AND day < '2026-10-01'
CREATE OR REPLACE VIEW ${database}.spend_as_of ${on_cluster} AS
SELECT
    toDate(occurred_at_clamped) AS day,
    tenant_id,
    project_id,
    ifNull(response_model, request_model) AS model,
    ifNull(tool_name, '') AS tool,
    countIf(event_type != 'correction') AS events,
    sum(toDecimal128(ifNull(cost_pusd, 0), 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    countIf(event_type = 'correction') AS corrections,
    sumIf(toDecimal128(ifNull(cost_pusd, 0), 0), event_type = 'correction')
        * toDecimal128('0.000000000001', 12) AS corrected_usd,
    sum(usage_events.unpriced) AS unpriced
FROM ${database}.usage_events FINAL
WHERE event_type != 'admission' AND broker_time <= {as_of:DateTime64(6, 'UTC')}
GROUP BY day, tenant_id, project_id, model, tool
SETTINGS do_not_merge_across_partitions_select_final = 1;
