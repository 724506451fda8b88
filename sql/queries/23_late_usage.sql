-- How much usage came late, and to which days does it belong?
-- What arrived after its window was final, per day of arrival: these amounts changed days that were
-- already reported. See 25 for a report as it was.
SELECT
    arrived_on,
    max(days_late) AS oldest_days,
    sum(late.events) AS events,
    sum(late.corrections) AS corrections,
    sum(late.cost_usd) AS cost_usd,
    sum(late.corrected_usd) AS corrected_usd
FROM late_usage AS late
GROUP BY arrived_on
ORDER BY arrived_on DESC
LIMIT 31;
