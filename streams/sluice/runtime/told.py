"""Shares as usage partitions tell them: remembered, and charged to ledgers that span tenants."""

from __future__ import annotations

from typing import Any

from sluice.enforcement import budgets
from sluice.enforcement.budgets import Ledger
from sluice.enforcement.shares import (
    NOTHING,
    ShareKey,
    Sums,
    Told,
    read_share,
    sums_of,
    uncharged,
)
from sluice.errors import WireError
from sluice.money import checked_sum
from sluice.periods import Period
from sluice.runtime.governance import Governance
from sluice.runtime.governing_columns import Charge
from sluice.runtime.outputs import Record
from sluice.runtime.state import TOLD, State

# Later times have no calendar; usage is never accepted for them.
_LATEST_US = 2**53


class ToldShares:
    """Takes shares in the order of their topic; what no budget in force takes waits for one."""

    def __init__(self, state: State, governance: Governance, partitions: int) -> None:
        self._state = state
        self._governance = governance
        self._partitions = partitions

    def hear(self, record: Record, fields: dict[str, Any]) -> None:
        """Charge what is new of a share; WireError where it breaks its contract."""
        self._check(fields)
        key, share = read_share(fields)
        known = self._state.told.get(key)
        if known is not None and share.version <= known.share.version:
            self._state.count("shares_ignored")
            return
        goes_on = known is not None and known.share.begun_at == share.begun_at
        told = Told(share, known.charged if known is not None and goes_on else NOTHING)
        try:
            self._charge(record, key, told)
        except OverflowError as error:
            raise WireError("sum_overflow", str(error)) from error
        self._keep(key, told)
        self._state.count("shares")
        if share.closing:
            self._governance.close_whole()

    def _check(self, fields: dict[str, Any]) -> None:
        number = fields["source_partition"]
        if not 0 <= number < self._partitions:
            raise WireError("bad_share", f"there is no usage partition {number}")
        if (fields["source"] is None) != (fields["source_epoch"] is None):
            raise WireError("bad_share", "a share names source and source_epoch, or neither")
        if not 0 <= fields["period_start"] <= fields["period_end"] <= _LATEST_US:
            raise WireError("bad_share", "its period has no begin and end")

    def charge_waiting(self, record: Record, policy_id: str) -> None:
        """Charge what a policy that was put in force can take."""
        waiting = sorted(k for k, t in self._state.told.items() if k.policy_id == policy_id)
        for key in waiting:
            told = self._state.told[key]
            try:
                self._charge(record, key, told)
            except OverflowError:  # it stays told, and its next word is refused
                self._state.count("shares_too_large")
            self._keep(key, told)

    def _keep(self, key: ShareKey, told: Told) -> None:
        self._state.told[key] = told
        self._state.touch(TOLD, key)

    def _charge(self, record: Record, key: ShareKey, told: Told) -> None:
        """Charge what was not charged yet, if a budget in force takes it; OverflowError."""
        more, share = uncharged(told), told.share
        policy = self._governance.policy(key.policy_id)
        budget = self._governance.budget_of(policy, key.ledger, share.period_start)
        if more == NOTHING or policy is None or budget is None:
            return
        if budget.ledger_unit != share.unit:
            return
        period = Period(budget.period, key.period_id, share.period_start, share.period_end)
        ledger = self._governance.held_to(policy, budget, key.scope, period, "")
        time = self._state.header.time
        _check_room(ledger, more)
        budgets.charge(ledger, budget, more.settled, time, time)
        budgets.count_many(
            ledger, corrected=more.corrected, events=more.events, unpriced=more.unpriced
        )
        told.charged = sums_of(share)
        if budget.hard and key.source:
            self._governance.tally(key.ledger, key.source, key.source_epoch, more.settled)
        self._governance.judge_at(Charge(key.ledger, ledger, budget, policy), record.offset, time)


def _check_room(ledger: Ledger, more: Sums) -> None:
    budgets.check(ledger, more.settled, correction=False)
    checked_sum(ledger.corrected, more.corrected)
    checked_sum(ledger.events, more.events)
    checked_sum(ledger.unpriced, more.unpriced)
