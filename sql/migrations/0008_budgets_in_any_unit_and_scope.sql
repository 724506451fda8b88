-- Ledgers of budgets in any unit and of any scope: the newest state of each budget, scope and period.
-- It replaces budget_states, whose sorting key did not tell scopes of a tenant apart; what that table
-- holds is taken over below. Nothing writes it any more.
CREATE TABLE IF NOT EXISTS ${database}.budget_ledgers ${on_cluster}
(
    tenant_id LowCardinality(String),
    policy_id LowCardinality(String),
    budget_id LowCardinality(String),
    scope String CODEC(ZSTD(1)),
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
    unit LowCardinality(String) DEFAULT 'pusd',
    limit Nullable(Int64) CODEC(ZSTD(1)),
    settled Nullable(Int64) CODEC(ZSTD(1)),
    reserved Nullable(Int64) CODEC(ZSTD(1)),
    presumed Nullable(Int64) CODEC(ZSTD(1)),
    corrected Nullable(Int64) CODEC(ZSTD(1)),
    remaining Nullable(Int64) CODEC(ZSTD(1)),
    events Int64 CODEC(T64, ZSTD(1)),
    unpriced Int64 CODEC(T64, ZSTD(1)),
    burn Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    forecast_pusd Nullable(Int64) CODEC(ZSTD(1)),
    forecast Nullable(Int64) CODEC(ZSTD(1)),
    exhausted_at Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    state LowCardinality(String),
    decision_id Nullable(String) CODEC(ZSTD(1)),
    watermark DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY (tenant_id, policy_id, budget_id, scope, period, shard)
COMMENT 'budgets.v1: ledger of each budget, scope and period; see schemas/BudgetRow.avsc';

-- Taken over twice, a row replaces itself.
INSERT INTO ${database}.budget_ledgers (
    tenant_id, policy_id, budget_id, scope, period, period_start, period_end, shard, limit_pusd,
    settled_pusd, reserved_pusd, presumed_pusd, corrected_pusd, remaining_pusd, events, unpriced,
    burn, forecast_pusd, exhausted_at, state, decision_id, watermark, version
)
SELECT
    tenant_id, policy_id, budget_id, scope, period, period_start, period_end, shard, limit_pusd,
    settled_pusd, reserved_pusd, presumed_pusd, corrected_pusd, remaining_pusd, events, unpriced,
    burn, forecast_pusd, exhausted_at, state, decision_id, watermark, version
FROM ${database}.budget_states FINAL;
