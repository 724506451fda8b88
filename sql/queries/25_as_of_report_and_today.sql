-- How does a report about the week before last, as it was a week ago, differ from what we know today?
-- as_of is the moment of the report: run again with the same as_of, its numbers never change.
-- changed_usd is what late usage and corrections did to the days since.
WITH
    today() - 14 AS first_day,
    today() - 8 AS last_day
SELECT
    tenant_id,
    sumIf(cost_usd, known = 'then') AS reported_usd,
    sumIf(cost_usd, known = 'today') AS today_usd,
    today_usd - reported_usd AS changed_usd
FROM
(
    SELECT 'then' AS known, tenant_id, cost_usd
    FROM spend_as_of(as_of = now() - INTERVAL 7 DAY)
    WHERE day >= first_day AND day <= last_day
    UNION ALL
    SELECT 'today', tenant_id, cost_usd
    FROM spend_as_of(as_of = now64(6))
    WHERE day >= first_day AND day <= last_day
)
GROUP BY tenant_id
ORDER BY abs(changed_usd) DESC
LIMIT 20;
