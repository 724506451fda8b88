-- Which models, tools and projects carry the spend since the first stored window?
-- Three rankings in one answer; tools have only the cost of tool calls. Models with unpriced events
-- need an entry in the price book.
SELECT kind, name, cost_usd, events, unpriced
FROM
(
    SELECT 'model' AS kind, model AS name, cost_usd, events, unpriced FROM spend_by_model
    UNION ALL
    SELECT 'tool', tool, cost_usd, events, unpriced FROM spend_by_tool
    UNION ALL
    SELECT 'project', concat(tenant_id, '/', project_id), cost_usd, events, unpriced
    FROM spend_by_project
)
ORDER BY kind, cost_usd DESC
LIMIT 5 BY kind;
