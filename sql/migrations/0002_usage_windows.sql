-- Absolute sums per tenant, project, model, tool and minute. A newer version of a row replaces the
-- older one; late usage has rows of its own (lane), so a reader sums lanes and shards.
CREATE TABLE IF NOT EXISTS ${database}.usage_windows ${on_cluster}
(
    tenant_id LowCardinality(String),
    project_id LowCardinality(String),
    model LowCardinality(String),
    tool LowCardinality(String),
    window_start DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    shard Int32 CODEC(T64, ZSTD(1)),
    lane LowCardinality(String),
    events Int64 CODEC(T64, ZSTD(1)),
    requests Int64 CODEC(T64, ZSTD(1)),
    input_tokens Int64 CODEC(T64, ZSTD(1)),
    input_uncached_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_read_input_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_write_input_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens Int64 CODEC(T64, ZSTD(1)),
    output_text_tokens Int64 CODEC(T64, ZSTD(1)),
    reasoning_output_tokens Int64 CODEC(T64, ZSTD(1)),
    gpu_us Nullable(Int64) CODEC(ZSTD(1)),
    energy_mj Nullable(Int64) CODEC(ZSTD(1)),
    kv_byte_ms Nullable(Int64) CODEC(ZSTD(1)),
    io_read_bytes Nullable(Int64) CODEC(ZSTD(1)),
    io_write_bytes Nullable(Int64) CODEC(ZSTD(1)),
    net_in_bytes Nullable(Int64) CODEC(ZSTD(1)),
    net_out_bytes Nullable(Int64) CODEC(ZSTD(1)),
    queue_us Nullable(Int64) CODEC(ZSTD(1)),
    ttft_us Nullable(Int64) CODEC(ZSTD(1)),
    latency_us Nullable(Int64) CODEC(ZSTD(1)),
    cost_pusd Int64 CODEC(T64, ZSTD(1)),
    unpriced Int64 CODEC(T64, ZSTD(1)),
    body_pusd Nullable(Int64) CODEC(ZSTD(1)),
    shoulder_pusd Nullable(Int64) CODEC(ZSTD(1)),
    tail_pusd Nullable(Int64) CODEC(ZSTD(1)),
    tail_by_cause Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    overhead_by_cause Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    task_tail_pusd Nullable(Int64) CODEC(ZSTD(1)),
    outcomes Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    slo_outcomes Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    refused Int64 CODEC(T64, ZSTD(1)),
    averted_pusd Int64 CODEC(T64, ZSTD(1)),
    latency_histogram Array(Tuple(bucket Int32, count Int64, cost_pusd Int64)) CODEC(ZSTD(1)),
    cost_histogram Array(Tuple(bucket Int32, count Int64, cost_pusd Int64)) CODEC(ZSTD(1)),
    price_book_version LowCardinality(Nullable(String)),
    baseline_version LowCardinality(Nullable(String)),
    watermark DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    revision Int32 CODEC(T64, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ${replicated}ReplacingMergeTree(version)
PARTITION BY toYYYYMM(window_start)
ORDER BY (tenant_id, project_id, window_start, model, tool, shard, lane)
COMMENT 'windows.v1: absolute sums per minute; see schemas/WindowRow.avsc';
