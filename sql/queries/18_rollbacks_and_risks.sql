-- What had to be undone, and which risks were seen, in the last 30 days?
-- kind tells rollback reasons from risk flags; one event may carry several flags.
SELECT entry.1 AS kind, tenant_id, entry.2 AS what, sum(entry.3) AS events
FROM
(
    SELECT
        tenant_id,
        arrayJoin(arrayConcat(
            arrayMap((k, v) -> ('rollback', k, v), mapKeys(rollback_reasons), mapValues(rollback_reasons)),
            arrayMap((k, v) -> ('risk', k, v), mapKeys(risk_flags), mapValues(risk_flags))
        )) AS entry
    FROM quality
    WHERE day > today() - 30
)
GROUP BY kind, tenant_id, what
ORDER BY events DESC
LIMIT 30;
