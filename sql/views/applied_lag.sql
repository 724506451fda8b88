-- How soon gateways obey: time from a decision's issue to its application, per hour, in microseconds.
CREATE OR REPLACE VIEW ${database}.applied_lag ${on_cluster} AS
SELECT
    toStartOfHour(occurred_at) AS hour,
    count() AS applied,
    uniqExact(decision_id) AS decisions,
    quantileExact(0.5)(lag_us) AS p50_us,
    quantileExact(0.95)(lag_us) AS p95_us,
    quantileExact(0.99)(lag_us) AS p99_us,
    max(lag_us) AS max_us
FROM
(
    SELECT
        occurred_at,
        decision_id,
        arrayFirst(unit -> unit.key = 'applied_lag_us', units).value AS lag_us
    FROM ${database}.usage_events FINAL
    WHERE event_type = 'admission' AND outcome = 'ok'
        AND arrayExists(unit -> unit.key = 'applied_lag_us', units)
    SETTINGS do_not_merge_across_partitions_select_final = 1
)
GROUP BY hour
ORDER BY hour;
