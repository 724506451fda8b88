-- What an event cost per priced class, and its bands against the baseline in force at its offset.
ALTER TABLE ${database}.usage_events ${on_cluster}
    ADD COLUMN IF NOT EXISTS attempt_kind LowCardinality(Nullable(String)) AFTER attempt,
    ADD COLUMN IF NOT EXISTS recomputed_input_tokens Int64 CODEC(T64, ZSTD(1)) AFTER reasoning_output_tokens,
    ADD COLUMN IF NOT EXISTS usage_by_class Array(Tuple(key LowCardinality(String), quantity Int64, cost_pusd Int64)) CODEC(ZSTD(1)) AFTER price_book_version,
    ADD COLUMN IF NOT EXISTS original_cost_pusd Nullable(Int64) CODEC(ZSTD(1)) AFTER usage_by_class,
    ADD COLUMN IF NOT EXISTS baseline_q50_pusd Nullable(Int64) CODEC(ZSTD(1)) AFTER original_cost_pusd,
    ADD COLUMN IF NOT EXISTS baseline_q95_pusd Nullable(Int64) CODEC(ZSTD(1)) AFTER baseline_q50_pusd,
    ADD COLUMN IF NOT EXISTS body_pusd Int64 CODEC(T64, ZSTD(1)) AFTER attributes,
    ADD COLUMN IF NOT EXISTS shoulder_pusd Int64 CODEC(T64, ZSTD(1)) AFTER body_pusd,
    ADD COLUMN IF NOT EXISTS tail_pusd Int64 CODEC(T64, ZSTD(1)) AFTER shoulder_pusd,
    ADD COLUMN IF NOT EXISTS baseline_version LowCardinality(Nullable(String)) AFTER tail_pusd;

-- Cost per class, corrections, quality, and how many events had a measured baseline.
ALTER TABLE ${database}.usage_windows ${on_cluster}
    ADD COLUMN IF NOT EXISTS usage_by_class Array(Tuple(key LowCardinality(String), quantity Int64, cost_pusd Int64)) CODEC(ZSTD(1)) AFTER unpriced,
    ADD COLUMN IF NOT EXISTS corrections Int64 CODEC(T64, ZSTD(1)) AFTER usage_by_class,
    ADD COLUMN IF NOT EXISTS corrected_pusd Int64 CODEC(T64, ZSTD(1)) AFTER corrections,
    ADD COLUMN IF NOT EXISTS clamped Int64 CODEC(T64, ZSTD(1)) AFTER corrected_pusd,
    ADD COLUMN IF NOT EXISTS good Int64 CODEC(T64, ZSTD(1)) AFTER slo_outcomes,
    ADD COLUMN IF NOT EXISTS rollback_reasons Map(LowCardinality(String), Int64) CODEC(ZSTD(1)) AFTER good,
    ADD COLUMN IF NOT EXISTS risk_flags Map(LowCardinality(String), Int64) CODEC(ZSTD(1)) AFTER rollback_reasons,
    ADD COLUMN IF NOT EXISTS packaged Int64 CODEC(T64, ZSTD(1)) AFTER baseline_version,
    ADD COLUMN IF NOT EXISTS unlabelled Int64 CODEC(T64, ZSTD(1)) AFTER packaged;

-- Agent tasks in parts; nothing was ever stored in the table that this one replaces.
DROP TABLE IF EXISTS ${database}.task_rows ${on_cluster};

CREATE TABLE IF NOT EXISTS ${database}.usage_tasks ${on_cluster}
(
    tenant_id LowCardinality(String),
    task_id String CODEC(ZSTD(1)),
    opened_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    project_id LowCardinality(String),
    agent_name LowCardinality(Nullable(String)),
    workflow_name LowCardinality(Nullable(String)),
    events Int64 CODEC(T64, ZSTD(1)),
    steps Int64 CODEC(T64, ZSTD(1)),
    tool_calls Int64 CODEC(T64, ZSTD(1)),
    depth Int32 CODEC(T64, ZSTD(1)),
    fan_out Int64 CODEC(T64, ZSTD(1)),
    retries Int64 CODEC(T64, ZSTD(1)),
    input_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens Int64 CODEC(T64, ZSTD(1)),
    cost_pusd Int64 CODEC(T64, ZSTD(1)),
    unpriced Int64 CODEC(T64, ZSTD(1)),
    tail_pusd Int64 CODEC(T64, ZSTD(1)),
    loop_pusd Int64 CODEC(T64, ZSTD(1)),
    baseline_pusd Nullable(Int64) CODEC(ZSTD(1)),
    task_tail_pusd Nullable(Int64) CODEC(ZSTD(1)),
    loop_score_ppm Nullable(Int64) CODEC(ZSTD(1)),
    outcome LowCardinality(Nullable(String)),
    slo_outcome LowCardinality(Nullable(String)),
    ended Bool CODEC(ZSTD(1)),
    started_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    last_seen_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    caps Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY (tenant_id, task_id, opened_at)
COMMENT 'tasks.v1: sums of each task; see schemas/TaskRow.avsc';

-- How complete the usage of each producer is: resends, holes, losses.
CREATE TABLE IF NOT EXISTS ${database}.usage_sources ${on_cluster}
(
    tenant_id LowCardinality(String),
    source LowCardinality(String),
    source_epoch String CODEC(ZSTD(1)),
    events Int64 CODEC(T64, ZSTD(1)),
    highest Int64 CODEC(T64, ZSTD(1)),
    missing Int64 CODEC(T64, ZSTD(1)),
    lost Int64 CODEC(T64, ZSTD(1)),
    recovered Int64 CODEC(T64, ZSTD(1)),
    duplicates Int64 CODEC(T64, ZSTD(1)),
    unprotected Int64 CODEC(T64, ZSTD(1)),
    last_seen_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY (tenant_id, source, source_epoch)
COMMENT 'sources.v1: sequence marks of each producer; see schemas/SourceRow.avsc';
