-- Tail and overhead by cause (first_pass, retry, hedge, recompute, queue_hold, loop, abandoned,
-- context_growth): one row per stored window row and cause, to be added up over any period and
-- dimension. tail_usd is cost above the cohort's 95th percentile; caused_usd is all cost of the cause,
-- tail or not. Every cause but first_pass is overhead.
CREATE OR REPLACE VIEW ${database}.tail_by_cause ${on_cluster} AS
SELECT
    tenant_id,
    project_id,
    model,
    tool,
    window_start,
    cause,
    toDecimal128(tail_by_cause[cause], 0) * toDecimal128('0.000000000001', 12) AS tail_usd,
    toDecimal128(overhead_by_cause[cause], 0) * toDecimal128('0.000000000001', 12) AS caused_usd,
    if(cause = 'first_pass', toDecimal128(0, 12), caused_usd) AS overhead_usd
FROM ${database}.usage_windows FINAL
ARRAY JOIN arrayDistinct(arrayConcat(mapKeys(overhead_by_cause), mapKeys(tail_by_cause))) AS cause
SETTINGS do_not_merge_across_partitions_select_final = 1;
