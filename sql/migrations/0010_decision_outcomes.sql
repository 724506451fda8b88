-- What each decision did until it ended, one row per decision.
CREATE TABLE IF NOT EXISTS ${database}.decision_outcomes ${on_cluster}
(
    decision_id String CODEC(ZSTD(1)),
    refused Int64 CODEC(T64, ZSTD(1)),
    delayed Int64 CODEC(T64, ZSTD(1)),
    degraded Int64 CODEC(T64, ZSTD(1)),
    averted_pusd Int64 CODEC(T64, ZSTD(1)),
    slo_effect_ppm Nullable(Int64) CODEC(ZSTD(1)),
    ended_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    ended_why LowCardinality(String),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY decision_id
COMMENT 'outcomes.v1: what decisions did; see schemas/DecisionOutcome.avsc';
