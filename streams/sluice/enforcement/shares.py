"""Shares of ledgers that span tenants: what the tenants of one usage partition have used.

A share is absolute and only its own partition counts it. The owner of the ledgers takes from each
newer word what it has not charged yet, so a word that is lost, repeated or late changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sluice.enforcement.budgets import LedgerKey
from sluice.money import checked_sum


class ShareKey(NamedTuple):
    """Identity of a share: a usage partition, a ledger, and the process that spent it.

    `source` and `source_epoch` are empty for usage that no lease is about.
    """

    partition: int
    policy_id: str
    budget_id: str
    scope: str
    period_id: str
    source: str = ""
    source_epoch: str = ""

    @property
    def ledger(self) -> LedgerKey:
        """The ledger that it is a share of."""
        return LedgerKey(*self[1:5])


class Share(msgspec.Struct, array_like=True):
    """Usage of one share, in `unit`; times in µs UTC.

    `begun_at` is when it was begun: another one counts from nothing. `version` is that of the row
    which told it last, `closing` whether nothing more of the process will come.
    """

    unit: str
    period_start: int
    period_end: int
    begun_at: int
    settled: int = 0
    corrected: int = 0
    events: int = 0
    unpriced: int = 0
    version: int = 0
    closing: bool = False


class Sums(NamedTuple):
    """What of a share there is, or is still to be charged."""

    settled: int
    corrected: int
    events: int
    unpriced: int


NOTHING = Sums(0, 0, 0, 0)


class Told(msgspec.Struct, array_like=True):
    """A share as its partition told it last, and what of it its ledger was charged."""

    share: Share
    charged: Sums = NOTHING


def sums_of(share: Share) -> Sums:
    """The sums of a share."""
    return Sums(share.settled, share.corrected, share.events, share.unpriced)


def uncharged(told: Told) -> Sums:
    """What of a share its ledger was not charged yet."""
    return Sums(*(n - had for n, had in zip(sums_of(told.share), told.charged, strict=True)))


def add(share: Share, more: Sums) -> None:
    """Add usage; OverflowError where a sum would leave 64 bits, and nothing is added then."""
    settled = checked_sum(share.settled, more.settled)
    share.corrected = checked_sum(share.corrected, more.corrected)
    share.settled = settled
    share.events += more.events
    share.unpriced += more.unpriced


def share_record(key: ShareKey, share: Share) -> dict[str, Any]:
    """A PartialRow as it goes on the wire."""
    return {
        "policy_id": key.policy_id,
        "budget_id": key.budget_id,
        "period": key.period_id,
        "source_partition": key.partition,
        "settled": share.settled,
        "unit": share.unit,
        "version": share.version,
        "scope": key.scope,
        "period_start": share.period_start,
        "period_end": share.period_end,
        "begun_at": share.begun_at,
        "source": key.source or None,
        "source_epoch": key.source_epoch or None,
        "corrected": share.corrected,
        "events": share.events,
        "unpriced": share.unpriced,
        "closing": share.closing,
    }


def read_share(row: Mapping[str, Any]) -> tuple[ShareKey, Share]:
    """The share that a PartialRow tells."""
    key = ShareKey(
        row["source_partition"], row["policy_id"], row["budget_id"], row["scope"], row["period"],
        row["source"] or "", row["source_epoch"] or "",
    )  # fmt: skip
    share = Share(
        row["unit"], row["period_start"], row["period_end"], row["begun_at"], row["settled"],
        row["corrected"], row["events"], row["unpriced"], row["version"], row["closing"],
    )  # fmt: skip
    return key, share
