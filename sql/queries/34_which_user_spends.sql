-- Which end users stand behind the spend of the dearest tenant, in the last 24 hours?
-- From the events themselves; users are hashes. Put a tenant's name in place of the first subquery.
WITH (SELECT tenant_id FROM spend_by_tenant LIMIT 1) AS chosen
SELECT
    end_user_hash,
    countIf(event_type != 'correction') AS events,
    sum(toDecimal128(ifNull(cost_pusd, 0), 0)) * toDecimal128('0.000000000001', 12) AS cost_usd,
    uniqExact(conversation_id) AS conversations
FROM usage_events FINAL
WHERE tenant_id = chosen AND event_type != 'admission' AND occurred_at >= now() - INTERVAL 1 DAY
GROUP BY end_user_hash
ORDER BY cost_usd DESC
LIMIT 20
SETTINGS do_not_merge_across_partitions_select_final = 1;
