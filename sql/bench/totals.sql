-- Marks of the producers, as the numbers of their events say.
INSERT INTO ${database}.usage_sources
(
    tenant_id, source, source_epoch, events, highest, missing, lost, recovered, duplicates,
    unprotected, last_seen_at, version
)
SELECT
    tenant_id, source, source_epoch,
    count() AS applied,
    ifNull(max(source_seq), 0) AS highest,
    if(highest > applied, 2, 0) AS missing,
    if(highest > applied, highest - applied - missing, 0) AS lost,
    if(cityHash64({seed:UInt64}, tenant_id, source, source_epoch) % 9 = 0, 1, 0),
    if(cityHash64({seed:UInt64}, tenant_id, source, source_epoch) % 7 = 0, 5, 0),
    0, max(broker_time), max(source_offset) + 1
FROM ${database}.usage_events
WHERE event_type != 'admission'
GROUP BY tenant_id, source, source_epoch;

-- A budget per tenant and month, with what the events of the month cost.
INSERT INTO ${database}.budget_ledgers
(
    tenant_id, policy_id, budget_id, scope, period, period_start, period_end, shard, limit_pusd,
    settled_pusd, reserved_pusd, presumed_pusd, corrected_pusd, remaining_pusd, events, unpriced,
    burn, state, watermark, version
)
SELECT
    tenant_id, 'policy-1', 'tenant-month', concat('tenant_id=', tenant_id),
    formatDateTime(toStartOfMonth(started_at), '%Y-%m'),
    toDateTime64(toStartOfMonth(started_at), 6, 'UTC') AS begins,
    begins + toIntervalMonth(1), 0,
    1000000000000 * toInt64(1 + cityHash64({seed:UInt64}, tenant_id) % 40) AS limit_pusd,
    sum(ifNull(cost_pusd, 0)) AS settled, 0, 0,
    sumIf(cost_pusd, event_type = 'correction'),
    limit_pusd - settled,
    countIf(event_type != 'correction'), sum(unpriced), map('1h', toInt64(intDiv(settled, 720))),
    multiIf(settled > limit_pusd, 'block', settled > 0.8 * limit_pusd, 'rate_limit', 'ok'),
    max(broker_time), max(source_offset) + 1
FROM ${database}.usage_events
WHERE event_type != 'admission'
GROUP BY tenant_id, toStartOfMonth(started_at);

-- A budget of each model and one of all tenants, with the same events.
INSERT INTO ${database}.budget_ledgers
(
    tenant_id, policy_id, budget_id, scope, period, period_start, period_end, shard, limit_pusd,
    settled_pusd, reserved_pusd, presumed_pusd, corrected_pusd, remaining_pusd, events, unpriced,
    burn, forecast_pusd, state, watermark, version
)
SELECT
    '', 'policy-2', if(model = '', 'all-month', 'model-month'), model,
    formatDateTime(month, '%Y-%m'), toDateTime64(month, 6, 'UTC') AS begins,
    begins + toIntervalMonth(1), 0,
    1000000000000 * toInt64(20 + cityHash64({seed:UInt64}, model) % 80) AS limit_pusd,
    sum(ifNull(cost_pusd, 0)) AS settled, 0, 0,
    sumIf(cost_pusd, event_type = 'correction'),
    limit_pusd - settled,
    countIf(event_type != 'correction'), sum(unpriced), map('1h', toInt64(intDiv(settled, 720))),
    settled + intDiv(settled, 10),
    if(settled > limit_pusd, 'block', 'ok'),
    max(broker_time), max(source_offset) + 1
FROM
(
    SELECT
        *, toStartOfMonth(started_at) AS month,
        arrayJoin(['', concat('model=', request_model)]) AS model
    FROM ${database}.usage_events
    WHERE event_type != 'admission'
)
WHERE model != 'model='
GROUP BY model, month;

-- The decisions that the refusals name; one in three was lifted before it expired.
INSERT INTO ${database}.decisions
(
    decision_id, kind, policy_id, rule_id, policy_version, scope, action, mode, reason_code, reason,
    evidence, epoch, sequence, issued_at, effective_at, expires_at, on_expiry, source_partition,
    control_offset, control_key, published_at
)
SELECT
    decision_id, 'decision', 'policy-1', 'stop', 'policy-1',
    (any(tenant_id), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    any(attributes.value[1]), 'enforce', 'BUDGET_EXHAUSTED', 'The budget tenant-month is spent.',
    ('month', 12, 10, 'pusd', []), 1, rowNumberInAllBlocks(), min(occurred_at) AS issued,
    issued, issued + toIntervalHour(1), 'open', 0, 2 * rowNumberInAllBlocks(), decision_id, issued
FROM ${database}.usage_events
WHERE event_type = 'admission' AND decision_id IS NOT NULL
GROUP BY decision_id;

INSERT INTO ${database}.decision_lifts (source_partition, control_offset, control_key, published_at)
SELECT 0, control_offset + 1, control_key, published_at + toIntervalMinute(10)
FROM ${database}.decisions
WHERE cityHash64({seed:UInt64}, decision_id) % 3 = 0;

-- What these decisions did until they ended, an hour later.
INSERT INTO ${database}.decision_outcomes
SELECT
    decision_id,
    modulo(cityHash64(decision_id), 50) AS refused,
    0 AS delayed,
    modulo(cityHash64(decision_id, 1), 5) AS degraded,
    toInt64(refused) * 2000000000 AS averted_pusd,
    NULL AS slo_effect_ppm,
    issued_at + INTERVAL 1 HOUR AS ended_at,
    'expired' AS ended_why,
    1 AS version
FROM ${database}.decisions FINAL;
