-- Events by latency_us in buckets 2 % wide: one row per stored window row and bucket, to be added up over
-- any period and dimension before a quantile is taken. value_us is the bucket's estimate, at most
-- 1 % off; cost_usd is exact. A correction takes an event out of one bucket (-1) and puts it into another.
CREATE OR REPLACE VIEW ${database}.latency_buckets ${on_cluster} AS
SELECT
    tenant_id,
    project_id,
    model,
    tool,
    window_start,
    bucket,
    if(bucket < 0, 0., 2 * pow(1.01 / 0.99, bucket) / (1.01 / 0.99 + 1))  AS value_us,
    bucket_events AS events,
    toDecimal128(bucket_pusd, 0) * toDecimal128('0.000000000001', 12) AS cost_usd
FROM ${database}.usage_windows FINAL
ARRAY JOIN
    latency_histogram.bucket AS bucket,
    latency_histogram.count AS bucket_events,
    latency_histogram.cost_pusd AS bucket_pusd
SETTINGS do_not_merge_across_partitions_select_final = 1;
