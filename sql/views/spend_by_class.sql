-- What each priced class cost (input, cache reads, output, reasoning, request fees, ...): one row per
-- stored window row and class, to be added up over any period and dimension.
CREATE OR REPLACE VIEW ${database}.spend_by_class ${on_cluster} AS
SELECT
    tenant_id,
    project_id,
    model,
    tool,
    window_start,
    class,
    quantity,
    toDecimal128(class_pusd, 0) * toDecimal128('0.000000000001', 12) AS cost_usd
FROM ${database}.usage_windows FINAL
ARRAY JOIN
    usage_by_class.key AS class,
    usage_by_class.quantity AS quantity,
    usage_by_class.cost_pusd AS class_pusd
SETTINGS do_not_merge_across_partitions_select_final = 1;
