-- Spend per window, tenant, project, model and tool; shards and lanes of late usage are summed.
CREATE OR REPLACE VIEW ${database}.spend ${on_cluster} AS
SELECT
    tenant_id,
    project_id,
    model,
    tool,
    window_start,
    sum(events) AS events,
    sum(requests) AS requests,
    sum(input_tokens) AS input_tokens,
    sum(cache_read_input_tokens) AS cache_read_input_tokens,
    sum(cache_write_input_tokens) AS cache_write_input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(reasoning_output_tokens) AS reasoning_output_tokens,
    sum(toDecimal128(cost_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    sum(unpriced) AS unpriced,
    sum(refused) AS refused,
    sum(toDecimal128(averted_pusd, 0)) * toDecimal128('0.000000000001', 12) AS averted_usd,
    max(watermark) AS watermark
FROM ${database}.usage_windows FINAL
GROUP BY tenant_id, project_id, model, tool, window_start
SETTINGS do_not_merge_across_partitions_select_final = 1;
