"""Worker processes: `meter` applies usage exactly once, `sink` stores it in ClickHouse."""
