-- Quantiles of cost per tenant, model and tool over a period, at most 1 % off:
-- SELECT * FROM cost_quantiles(since = now() - INTERVAL 7 DAY, until = now()). They come from merged
-- histograms; for other groups, add up cost_buckets in the same way.
CREATE OR REPLACE VIEW ${database}.cost_quantiles ${on_cluster} AS
SELECT
    tenant_id,
    model,
    tool,
    sum(bucket.events) AS events,
    (quantilesExactWeighted(0.5, 0.95, 0.99)(value_usd, toUInt64(greatest(bucket.events, 0))) AS found)[1] AS p50_usd,
    found[2] AS p95_usd,
    found[3] AS p99_usd
FROM
(
    SELECT tenant_id, model, tool, bucket, any(value_usd) AS value_usd, sum(stored.events) AS events
    FROM ${database}.cost_buckets AS stored
    WHERE window_start >= {since:DateTime64(6, 'UTC')} AND window_start < {until:DateTime64(6, 'UTC')}
    GROUP BY tenant_id, model, tool, bucket
) AS bucket
GROUP BY tenant_id, model, tool
HAVING events > 0;
