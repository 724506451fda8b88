-- Ladders decide by priority: a scope may name the priority of the requests that it is about.
ALTER TABLE ${database}.decisions ${on_cluster}
    MODIFY COLUMN scope Tuple(
        tenant_id Nullable(String), project_id Nullable(String), end_user_hash Nullable(String),
        api_key_hash Nullable(String), model Nullable(String), tool_name Nullable(String),
        task_id Nullable(String), region Nullable(String), pool Nullable(String),
        priority Nullable(String)
    ) CODEC(ZSTD(1));
