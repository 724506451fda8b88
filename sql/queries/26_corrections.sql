-- Which costs were corrected lately, from what to what, and why?
-- delta_usd is signed; several corrections of one event follow each other, before_usd tells the order.
SELECT corrected_at, occurred_at, tenant_id, model, before_usd, delta_usd, after_usd, reason, corrects_event_id
FROM corrections_log
LIMIT 20;
