"""Upper bounds of a scope: what each budget lets it use, and by how much that can be exceeded.

A hard budget is exceeded by at most the part by which requests in flight use more than they
reserved. A soft one is exceeded by what is in flight and by the rate of use times the delay of the
loop from usage to obedience. Of several bounds on the same usage the smallest holds: a tenant's own
budget, and those that span tenants, which others use up, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sluice.admission.budget_rule import BudgetRule
from sluice.steering.amounts import amount_text, touches
from sluice.steering.control import Standing, read_key
from sluice.steering.ledgers import LedgerView
from sluice.wire.scopes import scope_text


class Grant(NamedTuple):
    """What one holder may spend of a ledger in its period, absolute."""

    holder: str
    source_epoch: str
    granted_total: int
    expires_at: int


class Bound(NamedTuple):
    """One ledger's limit and the most that its scope can use in the period, in `unit`.

    `where` is what the usage has to match beside the scope. `in_flight` is the most that requests
    now running may have reserved, `overshoot` the bound on what goes beyond the limit, `worst_case`
    the bound on the period's use; None = not measured.
    """

    ledger: LedgerView
    hard: bool
    mode: str
    where: Mapping[str, str]
    grants: tuple[Grant, ...]
    in_flight: int | None
    rate_per_s: int | None
    rate_of: str | None
    loop_delay_us: int | None
    overshoot: int | None
    worst_case: int | None
    sentence: str

    @property
    def whose(self) -> str:
        """The scope for people, with what usage has to match beside it."""
        own = self.ledger.fields
        beside = scope_text(pair for pair in self.where.items() if pair[0] not in own)
        return f"{self.ledger.whose}, {beside}" if beside else self.ledger.whose

    def as_dict(self) -> dict[str, Any]:
        """The bound for programs."""
        own = {name: value for name, value in self._asdict().items() if name != "ledger"}
        own["grants"] = [grant._asdict() for grant in self.grants]
        return {**self.ledger.as_dict(), **own}


class Ceiling(NamedTuple):
    """The most that all requests of a scope together can still use of one unit, and what says so.

    `until` is when the period of that bound ends, µs UTC; None where no calendar ends it.
    """

    unit: str
    amount: int
    until: int | None
    bound: Bound

    def as_dict(self) -> dict[str, Any]:
        """The ceiling for programs."""
        ledger = self.bound.ledger
        return {"unit": self.unit, "amount": self.amount, "until": self.until,
                **ledger.name._asdict(), "tenant_id": ledger.tenant_id}  # fmt: skip


def bounds(
    standing: Standing, ledgers: Iterable[LedgerView], scope: dict[str, str],
    loop_delay_us: int | None, now: int, share_delay_us: int = 0,
) -> list[Bound]:  # fmt: skip
    """Bounds of every ledger that can concern `scope` and whose period is not over.

    Those that span tenants come first; usage is told to their owner within `share_delay_us`, by
    which the delay of their loop is longer.
    """
    found = [
        bound_of(standing, ledger, _delay(ledger, loop_delay_us, share_delay_us), now)
        for ledger in ledgers
        if touches(ledger.fields, scope) and _lasts(ledger, now)
    ]
    met = [bound for bound in found if touches(bound.where, scope)]
    return sorted(met, key=lambda bound: not bound.ledger.spans_tenants)


def _delay(ledger: LedgerView, loop_us: int | None, share_us: int) -> int | None:
    return loop_us + share_us if ledger.spans_tenants and loop_us is not None else loop_us


def ceilings(
    standing: Standing, found: Iterable[Bound], scope: Mapping[str, str]
) -> list[Ceiling]:  # fmt: skip
    """The smallest bound per unit of those that hold for every request of `scope`.

    A budget holds for them all if the scope names whatever its usage has to have.
    """
    smallest: dict[str, Ceiling] = {}
    for bound in found:
        ledger = bound.ledger
        rule = standing.state.budgets.in_force.get(ledger.name[:2])
        whole = {**ledger.fields, **bound.where}.items() <= scope.items()
        # Of concurrency nothing is ever used up.
        if rule is None or rule.shadow or not whole or ledger.unit == "concurrency":
            continue
        if bound.worst_case is not None:
            until = None if ledger.period in ("rolling", "task") else ledger.period_end
            left = Ceiling(ledger.unit, bound.worst_case - ledger.settled, until, bound)
            held = smallest.setdefault(ledger.unit, left)
            smallest[ledger.unit] = min(held, left, key=lambda one: one.amount)
    return [smallest[unit] for unit in sorted(smallest)]


def _lasts(ledger: LedgerView, now: int) -> bool:
    """Whether its period is not over; one without a calendar goes on for as long as it is used."""
    return ledger.period in ("rolling", "task") or ledger.period_end > now


def bound_of(standing: Standing, ledger: LedgerView, loop_delay_us: int | None, now: int) -> Bound:
    """The bound of one ledger at `now` (µs UTC)."""
    name = ledger.name
    rule = standing.state.budgets.in_force.get((name.policy_id, name.budget_id))
    grants = tuple(_grants(standing.state.leases, ledger, now))
    if rule is not None and rule.hard:
        return _hard(ledger, rule, grants)
    return _soft(ledger, rule, grants, loop_delay_us)


def _hard(ledger: LedgerView, rule: BudgetRule, grants: tuple[Grant, ...]) -> Bound:
    in_flight = ledger.reserved + ledger.presumed
    worst = max(ledger.limit, ledger.settled)
    sentence = (
        f"never more than {amount_text(ledger.limit, ledger.unit)}, plus what requests in flight "
        f"use beyond what they reserved; at most {amount_text(in_flight, ledger.unit)} is granted "
        "and not settled"
    )
    return Bound(ledger, True, rule.mode, dict(rule.where), grants, in_flight, None, None, None,
                 None, worst, sentence)  # fmt: skip


def _soft(
    ledger: LedgerView, rule: BudgetRule | None, grants: tuple[Grant, ...], delay_us: int | None
) -> Bound:
    mode, where = ("enforce", {}) if rule is None else (rule.mode, dict(rule.where))
    rate, rate_of = ledger.burn_per_s() or (None, None)
    overshoot = None if rate is None or delay_us is None else -(-rate * delay_us // 1_000_000)
    worst = None if overshoot is None else max(ledger.limit, ledger.settled) + overshoot
    sentence = _soft_sentence(ledger, rate, rate_of, delay_us, overshoot)
    return Bound(ledger, False, mode, where, grants, None, rate, rate_of, delay_us, overshoot,
                 worst, sentence)  # fmt: skip


def _soft_sentence(
    ledger: LedgerView, rate: int | None, rate_of: str | None, delay_us: int | None,
    overshoot: int | None,
) -> str:  # fmt: skip
    head = f"soft: beyond {amount_text(ledger.limit, ledger.unit)} goes what is in flight"
    if rate is None:
        return f"{head}; nothing was used yet, so no rate is known"
    seen = "mean of the period" if rate_of == "period" else f"last {rate_of}"
    pace = f"{amount_text(60 * rate, ledger.unit)} a minute ({seen})"
    if overshoot is None or delay_us is None:
        return f"{head} and {pace} until gateways obey"
    return (f"{head} and {amount_text(overshoot, ledger.unit)}: {pace} for "
            f"{delay_us / 1e6:.3f} s until gateways obey")  # fmt: skip


def _grants(
    leases: Mapping[bytes, Mapping[str, Any]], ledger: LedgerView, now: int
) -> Iterable[Grant]:
    for key, lease in leases.items():
        named = read_key(key)
        if named is None or named[1:4] != ledger.name:
            continue
        if lease["period"] == ledger.period and now < lease["expires_at"]:
            yield Grant(lease["holder"], lease["source_epoch"], lease["granted_total"],
                        lease["expires_at"])  # fmt: skip
