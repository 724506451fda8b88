-- How well do the models serve, in the last seven days?
-- good_ratio is the part of events that served their user; slow, failed and abandoned say why not.
SELECT
    model,
    sum(quality.events) AS all_events,
    sum(quality.good) / nullIf(all_events, 0) AS ratio,
    sum(slow) AS slow,
    sum(failed) AS failed,
    sum(abandoned) AS abandoned,
    sum(refused) AS refused
FROM quality
WHERE day > today() - 7
GROUP BY model
ORDER BY ratio;
