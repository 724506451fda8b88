-- What no price list knows: models, providers and tools whose usage has no cost, the most used
-- first; what a correction has priced since is left out. A call of a tool counts 0 where the price book lists no tools at all; it is named here too.
CREATE OR REPLACE VIEW ${database}.unpriced ${on_cluster} AS
SELECT
    provider_name,
    ifNull(response_model, request_model) AS model,
    ifNull(tool_name, '') AS tool,
    if(unpriced = 1, 'no price', 'tool call without a price, counted as 0') AS reason,
    count() AS events,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    arraySort(groupUniqArray(100)(tenant_id)) AS tenants,
    uniqExact(tenant_id) AS tenant_count,
    groupUniqArray(10)(price_book_version) AS price_book_versions,
    min(occurred_at) AS first_at,
    max(occurred_at) AS last_at
FROM ${database}.usage_events FINAL
WHERE (unpriced = 1 AND (tenant_id, event_id) NOT IN
    (
        SELECT tenant_id, assumeNotNull(corrects_event_id)
        FROM ${database}.usage_events FINAL
        WHERE event_type = 'correction' AND cost_pusd IS NOT NULL
    ))
    OR (event_type = 'tool' AND cost_pusd = 0 AND outcome NOT IN ('rejected', 'throttled', 'queued_out')
        AND NOT has(usage_by_class.key, 'tool_call'))
GROUP BY provider_name, model, tool, reason
ORDER BY events DESC
SETTINGS do_not_merge_across_partitions_select_final = 1;
