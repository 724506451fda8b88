"""Leases: slices of a hard budget that holders spend without asking, and how they are shared out.

A ledger's committed amount is what is settled plus what each holder still has: of an open lease
what was granted and is not settled, of a closed one what was in flight. A grant is absolute and
cumulative for one process of a holder. It is lowered by a report of that holder only, and what was
lowered stays counted until a report that comes GRACE_US or more later: until then the holder may
not have seen it. So a report that arrives twice, or out of order, frees nothing.

Sharing is weighted max-min fair (water filling, Bertsekas and Gallager, Data Networks, 6.5.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from hashlib import blake2b
from typing import NamedTuple, TypeVar
from uuid import UUID

import msgspec

from sluice.enforcement.budgets import LedgerKey
from sluice.money import clamped

TTL_US = 120_000_000
# Within this time a grant has reached its holder, or the holder's reports do not arrive either.
GRACE_US = 2_000_000

# Phases of a lease: usage was seen and nothing is granted; granted; silent beyond its expiry;
# reported to be over.
SEEN, OPEN, PRESUMED, CLOSED = "seen", "open", "presumed", "closed"

Key = TypeVar("Key", bound=tuple[str, ...])


class LeaseKey(NamedTuple):
    """Identity of a lease: a ledger, a holder, and the process of the holder."""

    policy_id: str
    budget_id: str
    scope: str
    period_id: str
    holder: str
    source_epoch: str

    @property
    def ledger(self) -> LedgerKey:
        """The ledger that it is a part of."""
        return LedgerKey(*self[:4])


class Lease(msgspec.Struct, array_like=True):
    """What one process of a holder may spend of a ledger; amounts in the ledger's unit.

    `granted` is the grant in force, `counted` what is held against the limit: `granted`, or the
    grant before it where that was more, lowered at `lowered_at`. `settled` is the usage of the
    process in the period, `base` that and what was `in_flight` at its last report, `wants` what it
    wanted then and `per_request` what a request of its needs. `drift` is how much more than
    `settled` the process itself counts as spent: prices differ, or there is none. `ends_at`: when
    the row is forgotten.
    """

    ends_at: int
    slot: str = ""
    phase: str = SEEN
    granted: int = 0
    counted: int = 0
    settled: int = 0
    base: int = 0
    wants: int = 0
    last_seq: int = 0
    expires_at: int = 0
    sequence: int = -1
    limited_by: str | None = None
    closing: bool = False
    lowered_at: int = 0
    drift: int = 0
    per_request: int = 0
    in_flight: int = 0


class Report(NamedTuple):
    """What a holder says of one lease, as HolderReport."""

    slot: str
    wants: int
    in_flight: int
    last_seq: int
    closing: bool
    committed: int | None = None
    per_request: int = 0


class Room(NamedTuple):
    """How far a lease may grow within one ledger of its chain, and whose limit that is."""

    budget_id: str
    counted: int


def held(lease: Lease) -> int:
    """What a holder still has beyond what is settled."""
    if lease.phase == SEEN:
        return 0
    have = lease.base if lease.phase == CLOSED else max(lease.counted, lease.base)
    return max(have - max(lease.settled, 0), 0)


def is_stale(lease: Lease, report: Report) -> bool:
    """Whether a report is older than what is known, or of a process that is over."""
    return lease.phase == CLOSED or lease.closing or report.last_seq < lease.last_seq


def hear(
    lease: Lease, report: Report, time: int, *, is_whole: bool, is_priced: bool = True,
    in_order: bool = True,
) -> None:  # fmt: skip
    """Take what a holder says at broker time `time` (µs).

    `is_whole`: all usage that it speaks of has been seen, so that a difference is one of counting.
    Else what it counts and the meter does not is still on its way. Where not everything has a price
    (`is_priced`), what it counts beyond the meter stays counted: nobody else limits it.

    Without `in_order` reports and usage come by different ways, so that nobody knows what is still
    on its way: then a holder that counts less than the meter is taken at the meter's word, else it
    would have the difference again and again.
    """
    spent = max(lease.settled, 0)
    if report.committed is not None:
        if is_whole:
            drift = clamped(report.committed - lease.settled)
            lease.drift = drift if is_priced else min(drift, 0)
        elif not in_order:
            lease.drift = min(clamped(report.committed - lease.settled), 0)
        spent = max(spent, report.committed - lease.drift)
    lease.slot, lease.last_seq, lease.wants = report.slot, report.last_seq, report.wants
    lease.per_request = report.per_request
    lease.in_flight = report.in_flight
    lease.base = clamped(spent + report.in_flight)
    if time - lease.lowered_at >= GRACE_US:
        lease.counted = lease.granted


def used(lease: Lease) -> int:
    """What of a lease cannot be given to others: settled, or in flight at the last report."""
    return max(lease.base, lease.settled, 0)


def wanted(lease: Lease) -> int:
    """What is left of the amount wanted at the last report: room for a request, or nothing."""
    left = lease.base + lease.wants - used(lease)
    return max(left, lease.per_request) if left > 0 else 0


def free(limit: int, settled: int, leases: Iterable[Lease]) -> int:
    """What open leases share: the limit less what is settled, in flight, presumed or closing."""
    taken = settled
    for lease in leases:
        taken += used(lease) - max(lease.settled, 0) if lease.phase == OPEN else held(lease)
    return max(0, limit - taken)


def fair_shares(room: int, wants: Mapping[Key, tuple[int, int]]) -> dict[Key, int]:
    """Weighted max-min fair shares of `room` by (amount wanted, weight).

    Nobody gets more than it wants; what one does not want goes to the others by their weights.
    Shares are whole; their sum is the room where more is wanted than there is.
    """
    left, weights = room, sum(weight for _, weight in wants.values())
    shares = {}
    for key in sorted(wants, key=lambda key: (Fraction(*wants[key]), key)):
        want, weight = wants[key]
        shares[key] = min(want, left * weight // weights)
        left, weights = left - shares[key], weights - weight
    return shares


def usable_shares(
    shares: Mapping[Key, int], needs: Mapping[Key, int], first: Key
) -> dict[Key, int]:
    """Shares that each let a request in: those below what one needs are put together.

    Of these `first` has its need before the others; who cannot have all of it has nothing. So of a
    small remainder less than one request's need lies idle, instead of a little at every holder.
    """
    small = sorted((k for k, share in shares.items() if share < needs[k]),
                   key=lambda k: (k != first, k))  # fmt: skip
    pool, usable = sum(shares[k] for k in small), dict(shares)
    for k in small:
        usable[k] = needs[k] if needs[k] <= pool else 0
        pool -= usable[k]
    return usable


def target(lease: Lease, share: int, rooms: Iterable[Room]) -> tuple[int, str | None]:
    """What to grant: all of the share that has room in every ledger, and who held it back.

    Never below what is settled and in flight, and no more than that where it would let no request
    in. None = nothing was held back.
    """
    most, by = clamped(used(lease) + share), None
    for room in rooms:
        if room.counted < most:
            most, by = room.counted, room.budget_id
    if most < used(lease) + min(share, lease.per_request):
        return used(lease), by
    return most, by


def grant(
    lease: Lease, amount: int, limited_by: str | None, expires_at: int, time: int
) -> None:  # fmt: skip
    """Grant `amount` in all; more than that stays counted for a while where it was granted."""
    lease.phase, lease.limited_by, lease.expires_at = OPEN, limited_by, expires_at
    if amount < lease.granted:
        lease.lowered_at = time
    lease.counted = max(lease.counted, amount)
    lease.granted = amount


def granted_total(lease: Lease) -> int:
    """The grant as its holder counts."""
    return max(0, clamped(lease.granted + lease.drift))


def close(lease: Lease, *, is_priced: bool = True) -> None:
    """End a lease whose usage has all come: what was in flight counts until its usage comes too.

    Where everything has a price (`is_priced`), what the process counted beyond that is let go.
    """
    if is_priced:
        lease.base = min(lease.base, clamped(max(lease.settled, 0) + lease.in_flight))
    lease.phase, lease.granted, lease.counted, lease.wants = CLOSED, 0, 0, 0


def lapse(lease: Lease) -> None:
    """A holder is silent: what it has is presumed spent; where it has nothing, nothing is."""
    lease.phase = PRESUMED if held(lease) else SEEN
    if lease.phase == SEEN:
        lease.granted = lease.counted = lease.wants = 0


def lease_id(key: LeaseKey) -> str:
    """Id of a lease, the same in every replay."""
    return str(UUID(bytes=blake2b("\x1f".join(key).encode(), digest_size=16).digest()))


def lease_key_bytes(key: LeaseKey) -> bytes:
    """Compaction key on the control topic."""
    return "|".join(("lease", *key)).encode()
