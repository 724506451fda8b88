-- How does the price of a million output tokens move, per model and day?
-- A jump without a new price book means another mix of service tiers, cache use or corrections.
SELECT
    day,
    model,
    sum(quantity) AS output_tokens,
    toFloat64(sum(cost_usd)) * any(per) / nullIf(sum(quantity), 0) AS usd_per_million
FROM unit_cost
WHERE day > today() - 14 AND basis = 'class' AND unit = 'output'
GROUP BY day, model
ORDER BY model, day;
