"""One lease as its holder keeps it: granted, reserved, spent, and what to report of it.

Amounts are whole numbers in the budget's unit, times µs UTC. Pure; one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sluice.admission.amounts import CONCURRENCY
from sluice.admission.budget_rule import BudgetRule, Span

BURN_S = 60
_SECOND_US = 1_000_000
# Between two reports that ask for more: a burst of requests asks together, and one that gets
# nothing asks half as often each time.
ASK_AGAIN_US = 20_000
_MAX_DOUBLINGS = 6


class AccountKey(NamedTuple):
    """A ledger of one budget: what its leases are granted for."""

    policy_id: str
    budget_id: str
    scope: str
    period_id: str
    unit: str


class Burn:
    """What was taken within the last minute, second by second."""

    __slots__ = ("_second", "_slots")

    def __init__(self) -> None:
        self._slots = [0] * BURN_S
        self._second = 0

    def add(self, amount: int, now: int) -> None:
        """Count an amount; a negative one corrects what was counted before."""
        self._turn(now)
        self._slots[self._second % BURN_S] += amount

    def within_minute(self, now: int) -> int:
        """The sum, at least 0."""
        self._turn(now)
        return max(0, sum(self._slots))

    def _turn(self, now: int) -> None:
        second = now // _SECOND_US
        for passed in range(max(self._second + 1, second - BURN_S + 1), second + 1):
            self._slots[passed % BURN_S] = 0
        self._second = max(self._second, second)


class Largest:
    """The largest amount of this minute and the one before it."""

    __slots__ = ("_before", "_minute", "_now")

    def __init__(self) -> None:
        self._minute = self._now = self._before = 0

    def see(self, amount: int, now: int) -> None:
        """Take an amount."""
        self._turn(now)
        self._now = max(self._now, amount)

    def at(self, now: int) -> int:
        """It, 0 if there was none."""
        self._turn(now)
        return max(self._now, self._before)

    def _turn(self, now: int) -> None:
        minute = now // (BURN_S * _SECOND_US)
        if minute > self._minute:
            self._before = self._now if minute == self._minute + 1 else 0
            self._minute, self._now = minute, 0


class Hold(NamedTuple):
    """An amount reserved on an account."""

    account: Account
    amount: int


def begun(holds: Iterable[Hold], now: int) -> int:
    """When a request begins that is let in at `now`: within every period that it holds of.

    A period may end between the hold and `now`; its usage is charged by when it began.
    """
    return min([now, *(h.account.ends_at - 1 for h in holds if h.account.ends_at is not None)])


class Account:
    """A ledger of this process on one lease; `grant` is the newest LeaseGrant record for it."""

    def __init__(self, rule: BudgetRule, key: AccountKey, span: Span, tenant_id: str) -> None:
        self.rule = rule
        self.key = key
        self.ends_at = span.end
        self.tenant_id = tenant_id
        self.grant: Mapping[str, Any] | None = None
        self.committed = 0
        self.reserved = 0
        self.interim = 0
        self.waiting = 0
        self.overshoot = 0
        # Spent, and its usage event was not emitted yet: the grantor cannot count it as spent.
        self.untold = 0
        self.ever_granted = False
        self.reported_at: int | None = None
        self._burn = Burn()
        self._largest = Largest()
        self._waits: list[int] = []
        self._peak = 0
        self._wanted = 0
        self._low_water = -1
        self._in_vain = 0
        self._failed = False
        self._lease_keys: dict[tuple[str, str | None], bytes] = {}

    def lease_key(self, holder: str, source_epoch: str | None) -> bytes:
        """Key of its grants on the control topic."""
        key = self._lease_keys.get((holder, source_epoch))
        if key is None:
            policy_id, budget_id, scope, period_id, _ = self.key
            parts = ("lease", policy_id, budget_id, scope, period_id, holder, source_epoch or "")
            key = self._lease_keys[holder, source_epoch] = "|".join(parts).encode()
        return key

    def see(self, grant: Mapping[str, Any] | None) -> None:
        """Go by the newest grant; one in another unit is none."""
        if grant is self.grant:
            return
        if grant is not None and grant["unit"] != self.key.unit:
            grant = None
        before, self.grant = self.grant, grant
        if grant is not None:
            self.ever_granted = True
            if before is None or grant["granted_total"] > before["granted_total"]:
                self._in_vain = 0
            self._low_water = max(0, grant["granted_total"] - self.committed) // 2

    def room(self, now: int) -> int | None:
        """What may still be reserved; None without a lease that is in force."""
        if self.grant is None or now >= self.grant["expires_at"]:
            return None
        return int(self.grant["granted_total"]) - self.committed - self.reserved

    def hold(self, amount: int, now: int) -> Hold:
        """Reserve an amount, whether there is room for it or not."""
        self.reserved += amount
        self._peak = max(self._peak, self.reserved)
        self._burn.add(amount, now)
        self._largest.see(amount, now)
        return Hold(self, amount)

    def wait(self, amount: int) -> None:
        """A request waits for so much."""
        self.waiting += amount
        self._waits.append(amount)

    def wait_over(self, amount: int) -> None:
        """It waits no more."""
        self.waiting -= amount
        self._waits.remove(amount)

    def _per_request(self, now: int) -> int:
        """What a grant must have room for to be of use: by what was held, and by what waits."""
        largest, least = self._largest.at(now), min(self._waits, default=0)
        return min(largest, least) or largest or least

    def settle(self, held: int, interim: int, spent: int, now: int) -> None:
        """Turn what was held into what was spent."""
        self.reserved -= held
        self.interim -= interim
        self.committed += spent
        self._burn.add(spent - held, now)
        if self.key.unit != CONCURRENCY:
            self.overshoot += max(0, spent - held)

    def wants(self, now: int) -> int:
        """What is wanted until the next report: a minute's burn, at least what waits."""
        if self.key.unit == CONCURRENCY:
            return max(self._peak, self.reserved + self.waiting) - self.reserved
        return max(self._burn.within_minute(now), self.waiting)

    def in_use(self, now: int) -> bool:
        """Whether anything was taken within the last minute, still runs or is still to be told."""
        held = self.reserved or self.waiting or self.untold
        return bool(held or self._burn.within_minute(now))

    def over(self, now: int) -> bool:
        """Whether its period has ended and nothing of it runs any more."""
        ended = self.ends_at is not None and now >= self.ends_at
        return ended and not self.reserved and not self.waiting

    def idle(self, now: int) -> bool:
        """Whether nothing is held or wanted any more, and its grantor knows."""
        if self.reported_at is None or self._failed:
            return self.reported_at is None and not self.in_use(now)
        return not self._wanted and not self.in_use(now) and self.room(now) is None

    def is_due(self, now: int) -> bool:
        """Whether a report should be sent now."""
        if self.reported_at is None or self._failed:
            return self._failed or self.in_use(now)
        since_us = now - self.reported_at
        if self.waiting and since_us >= ASK_AGAIN_US << self._in_vain:
            return True
        room = self.room(now)
        if room is not None and room < self._low_water:
            return since_us >= ASK_AGAIN_US
        if not self.in_use(now):
            return self._wanted > 0
        return since_us >= self.rule.refresh_after_ms * 1000

    def report_failed(self) -> None:
        """The last report was not sent: it is due again."""
        self._failed = True

    def report(self, holder_slot: str, now: int, *, closing: bool = False) -> dict[str, Any]:
        """The HolderReport to send; holder, epoch and last number are the emitter's to fill."""
        self._in_vain = min(self._in_vain + 1, _MAX_DOUBLINGS) if self.waiting else 0
        self._wanted = 0 if closing else self.wants(now)
        self.reported_at, self._failed = now, False
        self._low_water = -1
        # A new peak counts from here on.
        self._peak = self.reserved
        return {
            "holder_slot": holder_slot, "tenant_id": self.tenant_id,
            "policy_id": self.key.policy_id, "budget_ids": [self.key.budget_id],
            "scope": self.key.scope, "period": self.key.period_id, "unit": self.key.unit,
            "wants": self._wanted, "in_flight_reserved": self.reserved + self.untold,
            "interim_spend": self.interim, "committed": self.committed - self.untold,
            "per_request": self._per_request(now),
            "closing": closing,
        }  # fmt: skip
