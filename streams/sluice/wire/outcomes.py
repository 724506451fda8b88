"""Outcomes of usage events that several rooms tell apart."""

from __future__ import annotations

# Of these the provider never saw a request: no fee, no request, call or step of a budget.
NEVER_RAN = frozenset({"rejected", "throttled", "queued_out"})
