-- Spend per tool since the first stored window; usage outside of tools is left out.
CREATE OR REPLACE VIEW ${database}.spend_by_tool ${on_cluster} AS
SELECT
    tool,
    sum(events) AS events,
    sum(requests) AS requests,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(toDecimal128(cost_pusd, 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    sum(unpriced) AS unpriced,
    sum(refused) AS refused,
    sum(toDecimal128(averted_pusd, 0)) * toDecimal128('0.000000000001', 12) AS averted_usd,
    min(window_start) AS first_window,
    max(window_start) AS last_window
FROM ${database}.usage_windows FINAL
WHERE tool != ''
GROUP BY tool
ORDER BY cost_usd DESC
SETTINGS do_not_merge_across_partitions_select_final = 1;
