-- Is the usage of every producer complete?
-- missing may still arrive, lost was given up; a complete_ratio below 1 names the producer to look at.
-- The first line is the total of all producers.
SELECT *
FROM
(
    SELECT
        'all' AS tenant_id,
        'all' AS source,
        sum(c.events) AS events,
        sum(c.missing) AS missing,
        sum(c.lost) AS lost,
        sum(c.recovered) AS recovered,
        sum(c.duplicates) AS duplicates,
        sum(c.unprotected) AS unprotected,
        sum(c.numbered) / nullIf(sum(c.numbered) + missing + lost, 0) AS complete_ratio
    FROM completeness AS c
    UNION ALL
    SELECT tenant_id, source, events, missing, lost, recovered, duplicates, unprotected, complete_ratio
    FROM completeness
    WHERE missing + lost + recovered + duplicates + unprotected > 0
)
ORDER BY source != 'all', lost + missing DESC
LIMIT 31;
