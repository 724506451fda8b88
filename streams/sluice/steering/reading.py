"""Reads ledgers from the budgets topic, and older ones from ClickHouse where it answers."""

from __future__ import annotations

from sluice.errors import WireError
from sluice.settings import Settings
from sluice.steering.ledgers import Ledgers
from sluice.steering.stored import Stored
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records


def read_ledgers(settings: Settings, stored: Stored, tenant_id: str | None = None) -> Ledgers:
    """All ledgers, or those that a tenant's usage meets: its own, and those that span tenants.

    A row on the topic is never older than the stored one.

    The topic keeps rows for three days: what has not changed since then only ClickHouse knows.
    """
    ledgers = Ledgers(stored.budget_rows(tenant_id or "") or ())
    wanted = None if tenant_id is None else (tenant_id.encode(), b"")
    for record in committed_records(settings, topics(settings).budgets):
        if record.value is None or (wanted and (record.key or b"") not in wanted):
            continue
        try:
            ledgers.put(decode(record.value)[1])
        except WireError:
            continue  # of a later version of this program
    return ledgers
