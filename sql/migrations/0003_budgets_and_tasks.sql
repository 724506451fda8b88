-- Ledgers of budgets: the newest state of each budget and period.
CREATE TABLE IF NOT EXISTS ${database}.budget_states ${on_cluster}
(
    tenant_id LowCardinality(String),
    policy_id LowCardinality(String),
    budget_id LowCardinality(String),
    scope LowCardinality(String),
    period LowCardinality(String),
    period_start DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    period_end DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    shard Int32 CODEC(T64, ZSTD(1)),
    limit_pusd Int64 CODEC(T64, ZSTD(1)),
    settled_pusd Int64 CODEC(T64, ZSTD(1)),
    reserved_pusd Int64 CODEC(T64, ZSTD(1)),
    presumed_pusd Int64 CODEC(T64, ZSTD(1)),
    corrected_pusd Int64 CODEC(T64, ZSTD(1)),
    remaining_pusd Int64 CODEC(T64, ZSTD(1)),
    events Int64 CODEC(T64, ZSTD(1)),
    unpriced Int64 CODEC(T64, ZSTD(1)),
    burn Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    forecast_pusd Nullable(Int64) CODEC(ZSTD(1)),
    exhausted_at Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    state LowCardinality(String),
    decision_id Nullable(String) CODEC(ZSTD(1)),
    watermark DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY (tenant_id, policy_id, budget_id, period, shard)
COMMENT 'budgets.v1: ledger of each budget and period; see schemas/BudgetRow.avsc';

-- Agent tasks: the newest sums of each task.
CREATE TABLE IF NOT EXISTS ${database}.task_rows ${on_cluster}
(
    tenant_id LowCardinality(String),
    task_id String CODEC(ZSTD(1)),
    steps Int64 CODEC(T64, ZSTD(1)),
    tool_calls Int64 CODEC(T64, ZSTD(1)),
    depth Int32 CODEC(T64, ZSTD(1)),
    fan_out Int64 CODEC(T64, ZSTD(1)),
    retries Int64 CODEC(T64, ZSTD(1)),
    input_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens Int64 CODEC(T64, ZSTD(1)),
    cost_pusd Int64 CODEC(T64, ZSTD(1)),
    task_tail_pusd Nullable(Int64) CODEC(ZSTD(1)),
    loop_score_ppm Nullable(Int64) CODEC(ZSTD(1)),
    outcome LowCardinality(Nullable(String)),
    started_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    last_seen_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    caps Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY (tenant_id, task_id)
COMMENT 'tasks.v1: sums of each task; see schemas/TaskRow.avsc';
