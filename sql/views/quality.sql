-- How well usage served, per day, tenant, project and model: outcomes, SLO outcomes, effects that
-- were undone (rollbacks by reason) and risks that were seen (by flag).
CREATE OR REPLACE VIEW ${database}.quality ${on_cluster} AS
SELECT
    toDate(window_start) AS day,
    tenant_id,
    project_id,
    model,
    sum(usage_windows.events) AS events,
    sum(usage_windows.good) AS good,
    good / nullIf(events, 0) AS good_ratio,
    sum(outcomes['ok']) AS ok,
    sum(outcomes['degraded']) AS degraded,
    sum(outcomes['error']) AS error,
    sum(outcomes['cancelled']) AS cancelled,
    events - ok - degraded - error - cancelled AS other_outcomes,
    sum(slo_outcomes['slow']) AS slow,
    sum(slo_outcomes['failed']) AS failed,
    sum(slo_outcomes['abandoned']) AS abandoned,
    sumMap(usage_windows.rollback_reasons) AS rollback_reasons,
    sumMap(usage_windows.risk_flags) AS risk_flags,
    sum(usage_windows.refused) AS refused
FROM ${database}.usage_windows FINAL
GROUP BY day, tenant_id, project_id, model
SETTINGS do_not_merge_across_partitions_select_final = 1;
