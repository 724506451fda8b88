-- Quantiles of latency_us per tenant, model and tool over a period, at most 1 % off:
-- SELECT * FROM latency_quantiles(since = now() - INTERVAL 7 DAY, until = now()). They come from merged
-- histograms; for other groups, add up latency_buckets in the same way.
CREATE OR REPLACE VIEW ${database}.latency_quantiles ${on_cluster} AS
SELECT
    tenant_id,
    model,
    tool,
    sum(bucket.events) AS events,
    (quantilesExactWeighted(0.5, 0.95, 0.99)(value_us, toUInt64(greatest(bucket.events, 0))) AS found)[1] AS p50_us,
    found[2] AS p95_us,
    found[3] AS p99_us
FROM
(
    SELECT tenant_id, model, tool, bucket, any(value_us) AS value_us, sum(stored.events) AS events
    FROM ${database}.latency_buckets AS stored
    WHERE window_start >= {since:DateTime64(6, 'UTC')} AND window_start < {until:DateTime64(6, 'UTC')}
    GROUP BY tenant_id, model, tool, bucket
) AS bucket
GROUP BY tenant_id, model, tool
HAVING events > 0;
