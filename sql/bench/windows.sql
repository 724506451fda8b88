-- The window rows of the events of one day (or a part of it), exactly as much as the events say.
-- {keep} of 16 events are counted: fewer make an earlier version of the rows, 16 the last one.
INSERT INTO ${database}.usage_windows
(
    tenant_id, project_id, model, tool, window_start, lane, events, requests, input_tokens,
    input_uncached_tokens, cache_read_input_tokens, cache_write_input_tokens, output_tokens,
    output_text_tokens, reasoning_output_tokens, gpu_us, kv_byte_ms, net_out_bytes, queue_us,
    ttft_us, latency_us, cost_pusd, unpriced, usage_by_class, corrections, corrected_pusd, clamped,
    body_pusd, shoulder_pusd, tail_pusd, tail_by_cause, overhead_by_cause, task_tail_pusd, outcomes,
    slo_outcomes, good, rollback_reasons, risk_flags, refused, averted_pusd, latency_histogram,
    cost_histogram, price_book_version, baseline_version, packaged, unlabelled, watermark, revision,
    version
)
WITH
    log(1.01 / 0.99) AS log_gamma,
    facts AS
    (
        SELECT
            *,
            ifNull(response_model, request_model) AS model,
            ifNull(tool_name, '') AS tool,
            toStartOfMinute(occurred_at) AS window_start,
            -- A window takes late usage for an hour after it closed.
            if(broker_time > window_start + toIntervalSecond(60 + 30 + 3600), toString(toDate(broker_time)), '') AS lane,
            event_type != 'admission' AND event_type != 'correction' AS is_usage,
            event_type = 'correction' AS is_correction,
            toInt64(ifNull(cost_pusd, 0)) AS cost,
            multiIf(
                attempt > 1, if(attempt_kind = 'hedge', 'hedge', 'retry'),
                has(risk_flags, 'loop'), 'loop',
                slo_outcome = 'abandoned', 'abandoned',
                'first_pass') AS cause,
            if(cause = 'first_pass' AND input_tokens > 0 AND is_usage,
                intDiv(intDiv(cost, 2) * recomputed_input_tokens, input_tokens), 0) AS recompute,
            if(cost = 0, 0, toInt64(intDiv(toInt128(tail_pusd) * recompute, cost))) AS recompute_tail,
            if(is_usage AND cost_pusd IS NOT NULL, [(if(cost = 0, -1, toInt32(ceil(log(cost) / log_gamma - 1e-9))), 1, cost)],
                if(is_correction,
                    [
                        (toInt32(ceil(log(original_cost_pusd) / log_gamma - 1e-9)), -1, -original_cost_pusd),
                        (toInt32(ceil(log(original_cost_pusd + cost) / log_gamma - 1e-9)), 1, original_cost_pusd + cost)
                    ], [])) AS cost_moves,
            if(event_type != 'admission' AND latency_us > 0,
                [(toInt32(ceil(log(latency_us) / log_gamma - 1e-9)), is_usage, cost)], []) AS latency_moves
        FROM ${database}.usage_events
        WHERE occurred_at >= {since:DateTime64(6)} AND occurred_at < {before:DateTime64(6)}
            AND cityHash64(event_id) % 16 < {keep:UInt64}
    )
SELECT
    tenant_id, project_id, model, tool, window_start, lane,
    countIf(is_usage) AS events,
    countIf(event_type IN ('inference', 'embedding')) AS requests,
    sum(input_tokens),
    sum(input_tokens - cache_read_input_tokens - cache_write_input_tokens),
    sum(cache_read_input_tokens),
    sum(cache_write_input_tokens),
    sum(output_tokens),
    sum(output_tokens - reasoning_output_tokens),
    sum(reasoning_output_tokens),
    sum(gpu_us), sum(kv_byte_ms), sum(net_out_bytes),
    sumIf(queue_us, is_usage), sumIf(ttft_us, is_usage), sumIf(latency_us, is_usage),
    sum(cost),
    sum(unpriced),
    arrayMap((key, quantity, pusd) -> (key, quantity, pusd),
        (sumMap(usage_by_class.key, usage_by_class.quantity, usage_by_class.cost_pusd) AS by_class).1, by_class.2, by_class.3),
    countIf(is_correction),
    sumIf(cost, is_correction),
    0,
    sum(body_pusd), sum(shoulder_pusd), sum(tail_pusd),
    mapFilter((k, v) -> v != 0, sumMap(map(cause, tail_pusd - recompute_tail, 'recompute', recompute_tail))),
    mapFilter((k, v) -> v != 0, sumMap(map(cause, cost - recompute, 'recompute', recompute))),
    NULL,
    sumMap(if(is_usage, map(outcome, 1), map())),
    sumMap(if(is_usage AND slo_outcome IS NOT NULL, map(assumeNotNull(slo_outcome), 1), map())),
    countIf(is_usage AND (slo_outcome = 'good' OR slo_outcome IS NULL AND outcome IN ('ok', 'degraded'))),
    sumMap(if(is_usage AND rollback_reason IS NOT NULL, map(assumeNotNull(rollback_reason), 1), map())),
    sumMap(if(is_usage, mapFromArrays(risk_flags, arrayMap(flag -> 1, risk_flags)), map())),
    sumIf(units.value[1], event_type = 'admission' AND outcome != 'ok'),
    sumIf(estimated_cost_pusd, event_type = 'admission' AND outcome != 'ok'),
    arrayMap((bucket, n, pusd) -> (bucket, n, pusd),
        (sumMap(latency_moves.1, latency_moves.2, latency_moves.3) AS by_latency).1, by_latency.2, by_latency.3),
    arrayMap((bucket, n, pusd) -> (bucket, n, pusd),
        (sumMap(cost_moves.1, cost_moves.2, cost_moves.3) AS by_cost).1, by_cost.2, by_cost.3),
    any(price_book_version),
    nullIf(max(ifNull(baseline_version, '')), ''),
    countIf(baseline_version = 'packaged'),
    countIf(is_usage AND baseline_q50_pusd IS NULL),
    max(broker_time),
    {keep:UInt64} = 16,
    {keep:UInt64}
FROM facts
GROUP BY tenant_id, project_id, model, tool, window_start, lane;
