-- Records that broke their contract; their bytes stay on the dead-letter topic.
CREATE TABLE IF NOT EXISTS ${database}.dead_letters ${on_cluster}
(
    reason LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    partition Int32 CODEC(T64, ZSTD(1)),
    offset Int64 CODEC(Delta, ZSTD(1)),
    key String CODEC(ZSTD(1)),
    value_bytes Int64 CODEC(T64, ZSTD(1)),
    value_sha256 String CODEC(ZSTD(1)),
    arrived_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(arrived_at)
ORDER BY (topic, partition, offset, value_sha256)
COMMENT 'dlq.v1: what was refused, where and why';

-- When a policy, price book or baseline took effect in each usage partition.
CREATE TABLE IF NOT EXISTS ${database}.activations ${on_cluster}
(
    source_partition Int32 CODEC(T64, ZSTD(1)),
    source_offset Int64 CODEC(Delta, ZSTD(1)),
    kind LowCardinality(String),
    id LowCardinality(String),
    activated_version String CODEC(ZSTD(1)),
    activated_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(activated_at)
ORDER BY (kind, id, source_partition, source_offset)
COMMENT 'usage.v1: switches of policies, price books and baselines';

-- How far the sink has stored each partition. The version grows with the position, so a sink that
-- lost its partition cannot set it back.
CREATE TABLE IF NOT EXISTS ${database}.sink_positions ${on_cluster}
(
    topic LowCardinality(String),
    partition Int32,
    next_offset Int64,
    state String,
    updated_at DateTime64(6, 'UTC'),
    version UInt64
)
ENGINE = ${replicated}ReplacingMergeTree(version)
ORDER BY (topic, partition)
COMMENT 'the sink: next offset and what was in force there';
