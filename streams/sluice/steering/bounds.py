"""Upper bounds of a scope: what each budget lets it use, and by how much that can be exceeded.

A hard budget is exceeded by at most the part by which requests in flight use more than they
reserved. A soft one is exceeded by what is in flight and by the rate of use times the delay of the
loop from usage to obedience.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sluice.admission.budget_rule import BudgetRule
from sluice.steering.amounts import amount_text, touches
from sluice.steering.control import Standing, read_key
from sluice.steering.ledgers import LedgerView


class Grant(NamedTuple):
    """What one holder may spend of a ledger in its period, absolute."""

    holder: str
    source_epoch: str
    granted_total: int
    expires_at: int


class Bound(NamedTuple):
    """One ledger's limit and the most that its scope can use in the period, in `unit`.

    `in_flight` is the most that requests now running may have reserved, `overshoot` the bound on
    what goes beyond the limit, `worst_case` the bound on the period's use; None = not measured.
    """

    ledger: LedgerView
    hard: bool
    mode: str
    grants: tuple[Grant, ...]
    in_flight: int | None
    rate_per_s: int | None
    rate_of: str | None
    loop_delay_us: int | None
    overshoot: int | None
    worst_case: int | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """The bound for programs."""
        own = {name: value for name, value in self._asdict().items() if name != "ledger"}
        own["grants"] = [grant._asdict() for grant in self.grants]
        return {**self.ledger.as_dict(), **own}


def bounds(
    standing: Standing, ledgers: Iterable[LedgerView], scope: dict[str, str],
    loop_delay_us: int | None, now: int,
) -> list[Bound]:  # fmt: skip
    """Bounds of every ledger that can concern `scope` and whose period is not over."""
    return [
        bound_of(standing, ledger, loop_delay_us, now)
        for ledger in ledgers
        if touches(ledger.name.scope, scope) and _lasts(ledger, now)
    ]


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
    return Bound(
        ledger, True, rule.mode, grants, in_flight, None, None, None, None, worst, sentence
    )


def _soft(
    ledger: LedgerView, rule: BudgetRule | None, grants: tuple[Grant, ...], delay_us: int | None
) -> Bound:
    mode = "enforce" if rule is None else rule.mode
    rate, rate_of = ledger.burn_per_s() or (None, None)
    overshoot = None if rate is None or delay_us is None else -(-rate * delay_us // 1_000_000)
    worst = None if overshoot is None else max(ledger.limit, ledger.settled) + overshoot
    sentence = _soft_sentence(ledger, rate, rate_of, delay_us, overshoot)
    return Bound(ledger, False, mode, grants, None, rate, rate_of, delay_us, overshoot, worst,
                 sentence)  # fmt: skip


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
