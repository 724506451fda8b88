"""Whether all usage of a process has been seen, so that its lease may end."""

from __future__ import annotations

from collections.abc import Callable

from sluice.enforcement.leases import LeaseKey
from sluice.enforcement.shares import ShareKey
from sluice.metering.sources import SourceKey
from sluice.runtime.state import State

# Of a lease and the last number that its process emitted.
IsWhole = Callable[[LeaseKey, int], bool]


def numbers_seen(state: State, key: LeaseKey, last_seq: int) -> bool:
    """Whether everything that the process emitted for the tenant, up to a number, was seen."""
    if last_seq <= 0:
        return True
    tenant_id = state.ledgers[key.ledger].tenant_id
    sums = state.sources.rows.get(SourceKey(key.holder, key.source_epoch, tenant_id))
    if sums is None or sums.highest < last_seq:
        return False
    return all(first > last_seq for first, _ in sums.missing)


def unanswered(state: State, key: LeaseKey, partitions: int) -> list[int]:
    """Usage partitions that have not said that they hold no more usage of the process."""
    found = ((number, state.told.get(ShareKey(number, *key))) for number in range(partitions))
    return [number for number, told in found if told is None or not told.share.closing]
