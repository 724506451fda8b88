-- How much of the input comes from caches, and what does that save, in the last seven days?
-- saved_usd prices cache reads like fresh input of the same model, less what they cost; cache writes
-- are dearer than fresh input and are not part of it.
SELECT
    model,
    sumIf(quantity, class = 'cache_read') / nullIf(sumIf(quantity, class IN ('input', 'cache_read', 'cache_write')), 0) AS read_share,
    sumIf(cost_usd, class = 'cache_read') AS read_usd,
    toFloat64(sumIf(cost_usd, class = 'input')) / nullIf(sumIf(quantity, class = 'input'), 0) AS usd_per_input_token,
    sumIf(quantity, class = 'cache_read') * usd_per_input_token - toFloat64(read_usd) AS saved_usd
FROM spend_by_class
WHERE window_start >= now() - INTERVAL 7 DAY
GROUP BY model
ORDER BY saved_usd DESC;
