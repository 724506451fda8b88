-- Every decision that was published, whether or not it is still in force.
CREATE TABLE IF NOT EXISTS ${database}.decisions ${on_cluster}
(
    decision_id String CODEC(ZSTD(1)),
    kind LowCardinality(String),
    policy_id LowCardinality(String),
    rule_id LowCardinality(String),
    policy_version LowCardinality(String),
    scope Tuple(
        tenant_id Nullable(String), project_id Nullable(String), end_user_hash Nullable(String),
        api_key_hash Nullable(String), model Nullable(String), tool_name Nullable(String),
        task_id Nullable(String), region Nullable(String), pool Nullable(String)
    ) CODEC(ZSTD(1)),
    action LowCardinality(String),
    params Tuple(
        rate_per_minute Nullable(Int64), burst Nullable(Int64), max_tokens Nullable(Int64),
        fallback_models Array(String), queue_timeout_ms Nullable(Int64),
        queue_depth Nullable(Int64), priority Nullable(String), pool Nullable(String),
        drop_ratio_ppm Nullable(Int64), cooldown_ms Nullable(Int64), tool_denylist Array(String),
        max_steps_remaining Nullable(Int64), verify Nullable(Bool), boundary Nullable(String)
    ) CODEC(ZSTD(1)),
    mode LowCardinality(String),
    reason_code LowCardinality(String),
    reason String CODEC(ZSTD(1)),
    evidence Tuple(
        window String, observed Int64, limit Int64, unit String,
        offsets Array(Tuple(partition Int32, offset Int64))
    ) CODEC(ZSTD(1)),
    epoch Int64 CODEC(T64, ZSTD(1)),
    sequence Int64 CODEC(Delta, ZSTD(1)),
    issued_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    effective_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    on_expiry LowCardinality(String),
    retry_after_ms Nullable(Int64) CODEC(ZSTD(1)),
    lease Tuple(
        lease_id Nullable(String), holder Nullable(String), period Nullable(String),
        granted_total Nullable(Int64), unit Nullable(String), refresh_after_ms Nullable(Int64),
        expires_at Nullable(DateTime64(6, 'UTC'))
    ) CODEC(ZSTD(1)),
    supersedes Nullable(String) CODEC(ZSTD(1)),
    trace_id Nullable(String) CODEC(ZSTD(1)),
    signature Nullable(String) CODEC(ZSTD(1)),
    source_partition Int32 CODEC(T64, ZSTD(1)),
    control_offset UInt64 CODEC(Delta, ZSTD(1)),
    control_key String CODEC(ZSTD(1)),
    published_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(control_offset)
ORDER BY (policy_id, rule_id, decision_id, epoch, sequence, source_partition)
COMMENT 'control.v1: decisions; see schemas/Decision.avsc';

-- Tombstones of the control topic: the decision under this key was lifted before it expired.
CREATE TABLE IF NOT EXISTS ${database}.decision_lifts ${on_cluster}
(
    source_partition Int32 CODEC(T64, ZSTD(1)),
    control_offset UInt64 CODEC(Delta, ZSTD(1)),
    control_key String CODEC(ZSTD(1)),
    published_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree
ORDER BY (control_key, source_partition, control_offset)
COMMENT 'control.v1: decisions lifted';
