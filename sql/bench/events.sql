-- Generated usage events number {first} to {first} + {count}: every value follows from the seed and
-- the number. Events come in bursts of one tenant, project, model, tool and minute (1 to 25, 5.8 on
-- average), three bursts make a session, and sessions of agents are tasks. Tenants, models and tools
-- follow Zipf's law; in some hours one tenant crowds a model and everybody waits there.
INSERT INTO ${database}.usage_events
(
    event_id, source, source_epoch, source_seq, event_type, occurred_at, started_at, timing_quality,
    tenant_id, project_id, api_key_hash, end_user_hash, conversation_id, task_id, agent_name,
    attempt, attempt_kind, step, trace_id, span_id, operation_name, provider_name, request_model,
    response_model, deployment_id, region, stream, priority, tool_name, tool_type,
    input_tokens, cache_read_input_tokens, cache_write_input_tokens, output_tokens,
    reasoning_output_tokens, recomputed_input_tokens, usage_source, queue_us, ttft_us, latency_us,
    gpu_us, kv_byte_ms, net_out_bytes, cost_pusd, price_book_version, usage_by_class,
    baseline_q50_pusd, baseline_q95_pusd, body_pusd, shoulder_pusd, tail_pusd, baseline_version,
    policy_version, outcome, slo_outcome, rollback_reason, risk_flags, error_type, finish_reason,
    unpriced, occurred_at_clamped, source_partition, source_offset, broker_time, version
)
WITH
    bursts AS
    (
        SELECT
            number AS n,
            intDiv(n, 58) * 10
                + arrayFirstIndex(last -> n % 58 <= last, [0, 1, 2, 4, 6, 9, 13, 20, 32, 57]) - 1
                AS burst,
            intDiv(burst, 3) AS session,
            -- Sessions spread over the time; their three bursts fall into consecutive minutes.
            {start_us:Int64} + 60000000 * (
                intDiv(
                    session * (intDiv({until_us:Int64} - {start_us:Int64}, 60000000) - 13),
                    intDiv({events:UInt64} * 10, 174) + 1
                ) + cityHash64({seed:UInt64}, session, 'begin') % 10
            ) AS session_us,
            session_us + 60000000 * (burst % 3) AS minute_us,
            intDiv(session_us - {start_us:Int64}, 3600000000) AS hour
        FROM numbers({first:UInt64}, {count:UInt64})
    ),
    places AS
    (
        SELECT
            *,
            toUInt8(pow(21, (cityHash64({seed:UInt64}, session, 'model') % 1000000007) / 1000000007)) AS model_rank,
            cityHash64({seed:UInt64}, model_rank, hour, 'crowd') % 12 = 0 AS crowded,
            if(
                crowded AND cityHash64({seed:UInt64}, session, 'hog') % 10 < 6,
                1 + cityHash64({seed:UInt64}, model_rank, hour, 'who') % 40,
                toUInt64(pow(201, (cityHash64({seed:UInt64}, session, 'tenant') % 1000000007) / 1000000007))
            ) AS tenant_rank,
            if(
                cityHash64({seed:UInt64}, burst, 'tools') % 100 < 55,
                0,
                toUInt64(pow(31, (cityHash64({seed:UInt64}, burst, 'tool') % 1000000007) / 1000000007))
            ) AS tool_rank,
            cityHash64({seed:UInt64}, session, 'agent') % 100 AS agent_draw,
            -- One draw of 64 bits gives an event's small choices, digit by digit.
            cityHash64({seed:UInt64}, n, 'draw') AS draw,
            sqrt(-2 * log((1 + cityHash64({seed:UInt64}, n, 'a') % 1000000007) / 1000000008)) AS radius,
            2 * pi() * ((cityHash64({seed:UInt64}, n, 'b') % 1000000007) / 1000000007) AS angle
        FROM bursts
    ),
    sizes AS
    (
        SELECT
            *,
            [150000, 250000, 500000, 800000, 1250000, 2500000, 3000000, 15000000][1 + model_rank % 8] AS rate,
            tool_rank > 0 AS is_tool,
            agent_draw < 40 AS in_task,
            agent_draw < 2 AS loops,
            n - 58 * intDiv(n, 58) AS step_draw,
            if(is_tool, 0, least(toInt64(exp(6.5 + 1.2 * radius * cos(angle))), 1000000)) AS input,
            if(is_tool, 0, least(toInt64(exp(5.0 + 1.1 * radius * sin(angle))), 100000)) AS output,
            if(draw % 2 = 0, intDiv(input * toInt64(intDiv(draw, 2) % 90), 100), 0) AS cache_read,
            if(intDiv(draw, 256) % 10 = 0, intDiv(input - cache_read, 2), 0) AS cache_write,
            if(model_rank % 4 = 1, intDiv(output, 3), 0) AS reasoning,
            if(intDiv(draw, 4096) % 40 = 0, intDiv(input, 4), 0) AS recomputed,
            if(is_tool, 1 + toInt64(exp(0.9 * radius * cos(angle))) , 1) AS calls,
            intDiv(draw, 65536) % 1000 AS outcome_draw,
            intDiv(draw, 67108864) % 1000 AS slo_draw,
            intDiv(draw, 68719476736) % 1000 AS attempt_draw
        FROM places
    ),
    priced AS
    (
        SELECT
            *,
            toInt64(rate) AS rate_in,
            arrayFilter(
                class -> class.2 != 0,
                if(is_tool,
                    [('request', calls, calls * 100000000 * toInt64(tool_rank))],
                    [
                        ('input', input - cache_read - cache_write, (input - cache_read - cache_write) * rate_in),
                        ('cache_read', cache_read, cache_read * intDiv(rate_in, 10)),
                        ('cache_write', cache_write, cache_write * intDiv(rate_in * 5, 4)),
                        ('output', output - reasoning, (output - reasoning) * rate_in * 4),
                        ('reasoning', reasoning, reasoning * rate_in * 4)
                    ])
            ) AS classes,
            model_rank = 20 AS unknown_price,
            if(unknown_price, NULL, arraySum(class -> class.3, classes)) AS cost,
            intDiv(draw, 64) % 50 = 0 AS unlabelled,
            if(unlabelled OR unknown_price, NULL, if(is_tool, 200000000 * toInt64(tool_rank), 1200 * rate_in)) AS q50,
            if(q50 IS NULL, NULL, if(is_tool, 500000000 * toInt64(tool_rank), 7000 * rate_in)) AS q95,
            minute_us + toInt64(cityHash64({seed:UInt64}, n, 'second') % 60000000) AS occurred_us,
            toInt64(exp(9.0 + 1.0 * radius * sin(angle + 1)) * if(crowded, 12, 1)) AS waited_us,
            waited_us + if(is_tool, toInt64(exp(12 + radius * cos(angle + 2))), 20000 * output + 40 * input + 50000) AS took_us,
            -- One in 200 comes hours late, as far as that is before the end; others within two seconds.
            toInt64(3600000000 * (2 + cityHash64({seed:UInt64}, n, 'delay') % 30)) AS hours_us,
            occurred_us + if(
                cityHash64({seed:UInt64}, n, 'late') % 200 = 0 AND occurred_us + hours_us < {until_us:Int64},
                hours_us,
                toInt64(cityHash64({seed:UInt64}, n, 'delay') % 2000000)
            ) AS arrived_us
        FROM sizes
    ),
    numbered AS
    (
        SELECT
            *,
            concat('gateway-', toString(cityHash64({seed:UInt64}, session, 'gateway') % 4)) AS source,
            row_number() OVER (PARTITION BY tenant_rank, source ORDER BY n) AS counted
        FROM priced
    )
SELECT
    -- The layout of a UUIDv7: milliseconds, then bits that do not compress.
    concat(
        substring(lower(hex(toUInt64(intDiv(occurred_us, 1000)))), 1, 8), '-',
        substring(lower(hex(toUInt64(intDiv(occurred_us, 1000)))), 9, 4), '-7',
        substring(lower(hex(cityHash64({seed:UInt64}, n, 'id'))), 1, 3), '-8',
        substring(lower(hex(cityHash64({seed:UInt64}, n, 'id'))), 4, 3), '-',
        leftPad(lower(hex(n)), 12, '0')
    ) AS event_id,
    source,
    concat('run-', toString({first:UInt64})) AS source_epoch,
    -- Some runs lost three numbers after their fifth.
    counted + if(counted > 5 AND cityHash64({seed:UInt64}, tenant_rank, source, source_epoch) % 50 = 0, 3, 0) AS source_seq,
    if(is_tool, 'tool', if(intDiv(draw, 1024) % 33 = 0, 'embedding', 'inference')) AS event_type,
    fromUnixTimestamp64Micro(occurred_us, 'UTC') AS occurred_at,
    fromUnixTimestamp64Micro(occurred_us - took_us, 'UTC') AS started_at,
    'gateway' AS timing_quality,
    concat('tenant-', leftPad(toString(tenant_rank), 3, '0')) AS tenant_id,
    concat('project-', toString(1 + cityHash64({seed:UInt64}, session, 'project') % (1 + tenant_rank % 3))) AS project_id,
    lower(hex(cityHash64(tenant_id, session % 3, 'key'))) AS api_key_hash,
    lower(hex(cityHash64(tenant_id, session % 50, 'user'))) AS end_user_hash,
    lower(hex(cityHash64({seed:UInt64}, session, 'conversation'))) AS conversation_id,
    if(in_task, concat('task-', lower(hex(cityHash64({seed:UInt64}, session, 'task')))), NULL) AS task_id,
    if(in_task, concat('agent-', toString(1 + agent_draw % 8)), NULL) AS agent_name,
    if(attempt_draw < 30, 2, 1) AS attempt,
    if(attempt_draw < 30, if(attempt_draw < 6, 'hedge', 'retry'), NULL) AS attempt_kind,
    if(in_task, toInt32(1 + n - 58 * 3 * intDiv(n, 174)), 0) AS step,
    lower(concat(hex(cityHash64({seed:UInt64}, session, 'trace')), hex(cityHash64({seed:UInt64}, session, 'trace2')))) AS trace_id,
    lower(hex(cityHash64({seed:UInt64}, n, 'span'))) AS span_id,
    if(is_tool, 'execute_tool', if(event_type = 'embedding', 'embeddings', 'chat')) AS operation_name,
    concat('provider-', toString(1 + model_rank % 4)) AS provider_name,
    concat('model-', leftPad(toString(model_rank), 2, '0')) AS request_model,
    if(intDiv(draw, 128) % 20 = 0, NULL, request_model) AS response_model,
    if(model_rank <= 5, concat('deployment-', toString(model_rank)), NULL) AS deployment_id,
    concat('region-', toString(1 + session % 3)) AS region,
    draw % 3 = 0 AS stream,
    ['guaranteed', 'standard', 'standard', 'batch'][1 + tenant_rank % 4] AS priority,
    if(is_tool, concat('tool-', leftPad(toString(tool_rank), 2, '0')), NULL) AS tool_name,
    if(is_tool, 'function', NULL) AS tool_type,
    input, cache_read, cache_write, output, reasoning, recomputed,
    'provider' AS usage_source,
    if(outcome_draw = 999, NULL, waited_us) AS queue_us,
    if(is_tool, NULL, waited_us + 50000 + 40 * input) AS ttft_us,
    if(outcome_draw = 999, NULL, took_us) AS latency_us,
    if(model_rank <= 5 AND NOT is_tool, 4000 * output + 10 * input, NULL) AS gpu_us,
    if(model_rank <= 5 AND NOT is_tool, (input + output) * 131072 * intDiv(took_us, 1000), NULL) AS kv_byte_ms,
    if(is_tool, 512 * calls, NULL) AS net_out_bytes,
    cost,
    if(unknown_price, NULL, 'book-1') AS price_book_version,
    if(unknown_price, [], classes) AS usage_by_class,
    q50, q95,
    if(q50 IS NULL, ifNull(cost, 0), least(assumeNotNull(cost), assumeNotNull(q50))) AS body_pusd,
    if(q50 IS NULL, 0, least(assumeNotNull(cost), assumeNotNull(q95)) - body_pusd) AS shoulder_pusd,
    if(q50 IS NULL, 0, greatest(assumeNotNull(cost) - assumeNotNull(q95), 0)) AS tail_pusd,
    if(q50 IS NULL, NULL, if(model_rank > 15, 'packaged', 'b1')) AS baseline_version,
    'policy-1' AS policy_version,
    multiIf(outcome_draw < 950, 'ok', outcome_draw < 970, 'error', outcome_draw < 985, 'degraded', 'cancelled') AS outcome,
    multiIf(outcome = 'error', 'failed', outcome = 'cancelled', 'abandoned', slo_draw < 60, 'slow', slo_draw < 900, 'good', NULL) AS slo_outcome,
    if(outcome = 'error' AND slo_draw % 5 = 0, ['tests failed', 'rejected by user', 'timeout'][1 + slo_draw % 3], NULL) AS rollback_reason,
    arrayConcat(if(loops AND step_draw > 8, ['loop'], []), if(slo_draw = 7, ['prompt_injection'], [])) AS risk_flags,
    if(outcome = 'error', ['timeout', 'rate_limited'][1 + slo_draw % 2], NULL) AS error_type,
    if(is_tool, NULL, if(outcome = 'ok', 'stop', 'length')) AS finish_reason,
    unknown_price AS unpriced,
    occurred_at AS occurred_at_clamped,
    toInt32(tenant_rank % 4) AS source_partition,
    n AS source_offset,
    fromUnixTimestamp64Micro(arrived_us, 'UTC') AS broker_time,
    -- As the sink does: the first arrival has the greatest version.
    toUInt64(281474976710655 - n) AS version
FROM numbered;
