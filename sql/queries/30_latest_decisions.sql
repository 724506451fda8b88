-- What was decided lately, about whom, why, and is it still in force?
-- observed and threshold are in unit; lifted_at says when a decision ended before it expired.
SELECT issued_at, if(scope = '', 'all tenants', scope) AS whose, action, reason_code, reason, observed, threshold, unit,
    expires_at, lifted_at
FROM decisions_log
LIMIT 20;
