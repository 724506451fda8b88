-- What were the charges per class, as a FOCUS bill lists them, in the last 30 days?
-- One line per model and priced class: how much was consumed, what it cost, and the effective price
-- of one unit (a token, a request). Classes are disjoint, so the lines add up to the bill.
SELECT
    model,
    class,
    sum(quantity) AS consumed_quantity,
    sum(cost_usd) AS effective_cost,
    toFloat64(sum(cost_usd)) / nullIf(sum(quantity), 0) AS effective_unit_price
FROM spend_by_class
WHERE window_start >= now() - INTERVAL 30 DAY
GROUP BY model, class
ORDER BY effective_cost DESC;
