-- Every hour of a day some tenants are refused requests, and gateways report how soon they obeyed.
INSERT INTO ${database}.usage_events
(
    event_id, source, source_epoch, event_type, occurred_at, started_at, tenant_id, project_id,
    timing_quality, attempt, operation_name, provider_name, request_model, priority, usage_source,
    units, estimated_cost_pusd, decision_id, outcome, error_type, attributes,
    occurred_at_clamped, source_partition, source_offset, broker_time, version
)
SELECT
    concat('admission-', toString({day:Date}), '-', toString(number)) AS event_id,
    'gateway-0' AS source,
    'run-1' AS source_epoch,
    'admission' AS event_type,
    toDateTime64({day:Date}, 6, 'UTC') + toIntervalMinute(6 * number) AS occurred_at,
    occurred_at AS started_at,
    concat('tenant-', leftPad(toString(1 + cityHash64({seed:UInt64}, number) % 20), 3, '0')) AS tenant_id,
    'project-1' AS project_id,
    'gateway' AS timing_quality,
    1 AS attempt,
    'admission' AS operation_name,
    '' AS provider_name,
    'model-01' AS request_model,
    'standard' AS priority,
    'estimated' AS usage_source,
    if(number % 4 = 0,
        [('requests', 1), ('applied_lag_us', toInt64(5000 + cityHash64({seed:UInt64}, number, {day:Date}) % 40000))],
        [('requests', toInt64(1 + cityHash64({seed:UInt64}, number, {day:Date}) % 9))]) AS units,
    if(number % 4 = 0, NULL, 3000000000 * units[1].2) AS estimated_cost_pusd,
    concat('decision-', toString({day:Date}), '-', toString(intDiv(number, 20))) AS decision_id,
    if(number % 4 = 0, 'ok', 'rejected') AS outcome,
    if(number % 4 = 0, NULL, 'BUDGET_EXHAUSTED') AS error_type,
    [('action', if(number % 8 < 6, 'block', 'rate_limit'))] AS attributes,
    occurred_at AS occurred_at_clamped,
    0 AS source_partition,
    2 * {events:UInt64} + number AS source_offset,
    occurred_at AS broker_time,
    toUInt64(281474976710655 - source_offset) AS version
FROM numbers(240)
WHERE occurred_at < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC');

