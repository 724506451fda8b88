-- What does an outcome cost that served its user, per model, in the last seven days?
-- usd_per_good carries everything that did not serve; its distance from usd_per_event is the waste.
SELECT
    model,
    sum(events) AS all_events,
    sum(good) AS good_events,
    toFloat64(sum(cost_usd)) / nullIf(all_events, 0) AS usd_per_event,
    toFloat64(sum(cost_usd)) / nullIf(good_events, 0) AS usd_per_good,
    toFloat64(sum(tail_usd)) / nullIf(good_events, 0) AS tail_usd_per_good
FROM cost_per_good_outcome
WHERE day > today() - 7
GROUP BY model
ORDER BY usd_per_good DESC;
