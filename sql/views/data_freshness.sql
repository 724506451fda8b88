-- How far behind now the warehouse is: per table the newest instant it covers. A pipeline at rest
-- looks old here too; lag that grows while gateways emit is a fault. Without FINAL, because an older
-- version of a row never holds a newer instant.
CREATE OR REPLACE VIEW ${database}.data_freshness ${on_cluster} AS
SELECT
    stored,
    covered_until,
    dateDiff('microsecond', covered_until, now64(6, 'UTC')) / 1000000 AS lag_s
FROM
(
    SELECT 'usage_events' AS stored, max(broker_time) AS covered_until FROM ${database}.usage_events
    UNION ALL
    SELECT 'usage_windows', max(watermark) FROM ${database}.usage_windows
    UNION ALL
    SELECT 'usage_tasks', max(last_seen_at) FROM ${database}.usage_tasks
    UNION ALL
    SELECT 'usage_sources', max(last_seen_at) FROM ${database}.usage_sources
    UNION ALL
    SELECT 'budget_ledgers', max(watermark) FROM ${database}.budget_ledgers
    UNION ALL
    SELECT 'decisions', max(published_at) FROM ${database}.decisions
    UNION ALL
    SELECT concat(topic, '[', toString(partition), ']'), max(updated_at)
    FROM ${database}.sink_positions
    GROUP BY topic, partition
)
WHERE covered_until > toDateTime64(0, 6, 'UTC');
