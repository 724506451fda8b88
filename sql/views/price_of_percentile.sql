-- What a percentile costs: how much of the spend of a tenant and model lies in events above the 50th,
-- 90th, 95th and 99th percentile of cost (unit usd) or latency (unit us) in a period:
-- SELECT * FROM price_of_percentile(since = now() - INTERVAL 7 DAY, until = now()).
-- The threshold is at most 1 % off, the money is exact for the buckets above it.
CREATE OR REPLACE VIEW ${database}.price_of_percentile ${on_cluster} AS
SELECT
    tenant_id,
    model,
    measure,
    unit,
    percentile,
    values[arrayFirstIndex(
        n -> n >= ceil(percentile * total / 100), arrayCumSum(counts) AS seen
    ) AS cut] AS threshold,
    total AS events,
    total - seen[cut] AS events_above,
    arraySum(costs) AS cost_usd,
    arraySum(arraySlice(costs, cut + 1)) AS above_usd,
    toFloat64(above_usd) / nullIf(toFloat64(cost_usd), 0) AS share_above
FROM
(
    SELECT
        tenant_id,
        model,
        measure,
        unit,
        arraySort(groupArray((bucket, value, events, cost_usd))) AS held,
        held.2 AS values,
        arrayMap(n -> greatest(n, 0), held.3) AS counts,
        held.4 AS costs,
        arraySum(counts) AS total
    FROM
    (
        SELECT
            tenant_id, model, 'cost' AS measure, 'usd' AS unit, bucket, any(value_usd) AS value,
            sum(stored.events) AS events, sum(stored.cost_usd) AS cost_usd
        FROM ${database}.cost_buckets AS stored
        WHERE window_start >= {since:DateTime64(6, 'UTC')} AND window_start < {until:DateTime64(6, 'UTC')}
        GROUP BY tenant_id, model, bucket
        UNION ALL
        SELECT
            tenant_id, model, 'latency', 'us', bucket, any(value_us),
            sum(stored.events), sum(stored.cost_usd)
        FROM ${database}.latency_buckets AS stored
        WHERE window_start >= {since:DateTime64(6, 'UTC')} AND window_start < {until:DateTime64(6, 'UTC')}
        GROUP BY tenant_id, model, bucket
    )
    GROUP BY tenant_id, model, measure, unit
    HAVING total > 0
)
ARRAY JOIN [50, 90, 95, 99] AS percentile;
