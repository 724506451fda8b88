-- Which models and tools have no price, and how much usage is not costed because of it?
-- Add the rates to the price book (`sluice prices apply`), then `sluice rerate` prices what was used.
SELECT
    provider_name,
    model,
    tool,
    reason,
    events,
    input_tokens,
    output_tokens,
    tenant_count,
    last_at
FROM unpriced
ORDER BY events DESC
LIMIT 30;
