-- Where does the tail come from, in the last seven days?
-- tail_usd is cost above the cohort's 95th percentile, split by cause; overhead_usd is all cost of the
-- cause, tail or not. first_pass is useful work: dear in the tail, but no overhead.
SELECT
    cause,
    sum(split.tail_usd) AS tail_usd,
    sum(split.overhead_usd) AS overhead_usd,
    round(toFloat64(tail_usd) / nullIf(toFloat64(sum(tail_usd) OVER ()), 0), 4) AS share_of_tail
FROM tail_by_cause AS split
WHERE window_start >= now() - INTERVAL 7 DAY
GROUP BY cause
ORDER BY tail_usd DESC;
