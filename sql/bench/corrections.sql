-- One event in 500 turns out to have cost 30 % less; the correction arrives 2 to 20 days later, as
-- far as that is before the end of the generated time. It carries the original's identity and time.
INSERT INTO ${database}.usage_events
WITH original AS
(
    SELECT
        *,
        cost_pusd AS old,
        cost_pusd - intDiv(cost_pusd * 3, 10) AS new,
        toIntervalDay(2 + cityHash64({seed:UInt64}, source_offset, 'days') % 19) AS delay
    FROM ${database}.usage_events
    WHERE event_type NOT IN ('admission', 'correction')
        AND toDate(occurred_at) = {day:Date}
        AND cityHash64({seed:UInt64}, source_offset, 'wrong') % 500 = 0
        AND cost_pusd > 0
        AND broker_time + delay < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
)
SELECT * EXCEPT (old, new, delay) REPLACE (
    concat('fix-', original.event_id) AS event_id,
    'corrections' AS source,
    'run-1' AS source_epoch,
    NULL AS source_seq,
    'correction' AS event_type,
    original.event_id AS corrects_event_id,
    0 AS input_tokens,
    0 AS cache_read_input_tokens,
    0 AS cache_write_input_tokens,
    0 AS output_tokens,
    0 AS reasoning_output_tokens,
    0 AS recomputed_input_tokens,
    NULL AS queue_us,
    NULL AS ttft_us,
    NULL AS gpu_us,
    NULL AS kv_byte_ms,
    NULL AS net_out_bytes,
    [] AS risk_flags,
    'contract' AS cost_source,
    [(original.usage_by_class[1].1, 0, new - old)] AS usage_by_class,
    old AS original_cost_pusd,
    new - old AS cost_pusd,
    if(original.baseline_q50_pusd IS NULL, new - old,
        least(new, original.baseline_q50_pusd) - least(old, original.baseline_q50_pusd)) AS body_pusd,
    if(original.baseline_q50_pusd IS NULL, 0,
        least(new, original.baseline_q95_pusd) - least(old, original.baseline_q95_pusd)
        - least(new, original.baseline_q50_pusd) + least(old, original.baseline_q50_pusd)) AS shoulder_pusd,
    if(original.baseline_q50_pusd IS NULL, 0,
        greatest(new - original.baseline_q95_pusd, 0) - greatest(old - original.baseline_q95_pusd, 0)) AS tail_pusd,
    [('reason', 'contract price')] AS attributes,
    original.broker_time + delay AS broker_time,
    original.source_offset + {events:UInt64} AS source_offset,
    original.version - {events:UInt64} AS version
)
FROM original;
