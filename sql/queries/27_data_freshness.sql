-- How fresh is what I am looking at?
-- lag_s is the distance from now to the newest instant that each table covers.
SELECT stored, covered_until, round(lag_s, 1) AS lag_s
FROM data_freshness
ORDER BY stored;
