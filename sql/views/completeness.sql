-- How complete the usage of each producer is, its runs added up: numbers that are missing, given up
-- as lost, recovered, resends not applied, and events without protection against resends.
-- complete_ratio = events / (events + missing + lost); NULL for producers that do not number.
CREATE OR REPLACE VIEW ${database}.completeness ${on_cluster} AS
SELECT
    tenant_id,
    source,
    count() AS runs,
    sum(mark.events) AS events,
    sum(mark.missing) AS missing,
    sum(mark.lost) AS lost,
    sum(mark.recovered) AS recovered,
    sum(mark.duplicates) AS duplicates,
    sum(mark.unprotected) AS unprotected,
    max(mark.last_seen_at) AS last_seen_at,
    sumIf(mark.events, highest > 0) AS numbered,
    numbered / nullIf(numbered + missing + lost, 0) AS complete_ratio
FROM ${database}.usage_sources AS mark FINAL
GROUP BY tenant_id, source;
