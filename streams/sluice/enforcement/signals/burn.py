"""How fast a budget is spent: paired windows, and what that comes to by the end of the period.

Burn is spend per time over limit per time, 1 = exactly used up at the end of the period. A long
window says that it matters, a short one that it still goes on; both have to burn (SRE workbook,
"Alerting on SLOs", multi-window multi-burn-rate). A burn of f x period / window spends the share f
of the budget within the window: 14.4 over an hour of 30 days is 2 %.
"""

from __future__ import annotations

from typing import NamedTuple

from sluice.enforcement.signals.signal import PPM, Signal, ratio_ppm
from sluice.money import INT64_MAX


class Span(NamedTuple):
    """A look-back window by its name, and how long it is."""

    name: str
    width_us: int


class Pair(NamedTuple):
    """A short and a long window that have to agree."""

    short: Span
    long: Span

    @property
    def name(self) -> str:
        """Both windows, as evidence names them."""
        return f"{self.short.name}/{self.long.name}"


class Term(NamedTuple):
    """A budget as far as its burn goes: amounts in the budget's unit, times in µs UTC."""

    limit: int
    committed: int
    period_start: int
    period_end: int

    @property
    def period_us(self) -> int:
        """Length of the period."""
        return self.period_end - self.period_start


class Forecast(NamedTuple):
    """Where a budget is going; amounts in its unit.

    `forecast` is what will be spent by the end of the period, `exhausted_at` when the limit is
    reached (None: not within the period), `headroom` what is left, `pressure_ppm` the spend to come
    over what is left (1,000,000 = exactly used up).
    """

    forecast: int
    exhausted_at: int | None
    headroom: int
    pressure_ppm: int


def burn_ppm(spent: int, width_us: int, limit: int, period_us: int) -> int:
    """Burn in parts per million; any spend of a budget of nothing burns without bound."""
    return ratio_ppm(spent * period_us, limit * width_us)


def burn(spent: tuple[int, int], pair: Pair, term: Term, at_ppm: int) -> Signal:
    """The smaller burn of a short and a long window; `spent` in the same order."""
    short, long = (
        burn_ppm(amount, span.width_us, term.limit, term.period_us)
        for amount, span in zip(spent, pair, strict=True)
    )
    evidence = (("short_ppm", short), ("long_ppm", long), ("spent", spent[1]))
    return Signal("burn", min(short, long), at_ppm, "ppm", pair.name, evidence)


def slo_burn(
    bad: tuple[int, int], cost: tuple[int, int], pair: Pair, target_ppm: int, at_ppm: int
) -> Signal:
    """How fast the money that may buy bad outcomes goes; costs in pico-USD, short window first.

    Of every cost the share 1 - target may have been for nothing; burn 1 = exactly that share was.
    """
    allowed = PPM - target_ppm
    short, long = (
        ratio_ppm(lost * PPM, whole * allowed) if whole else 0
        for lost, whole in zip(bad, cost, strict=True)
    )
    evidence = (("short_ppm", short), ("long_ppm", long), ("bad_pusd", bad[1]),
                ("cost_pusd", cost[1]))  # fmt: skip
    return Signal("slo_burn", min(short, long), at_ppm, "ppm", pair.name, evidence)


def forecast(spent: tuple[int, int], pair: Pair, term: Term, seen_us: int, time: int) -> Forecast:
    """What a budget comes to if spending goes on like in the faster one of two windows.

    `seen_us`: for how long anything was seen; a window is not divided by more than that, but by
    the length of the short one at least.
    """
    headroom, left_us = term.limit - term.committed, max(0, term.period_end - time)
    rates = [
        (amount, max(pair.short.width_us, min(span.width_us, seen_us)))
        for amount, span in zip(spent, pair, strict=True)
    ]
    amount, over_us = max(rates, key=lambda rate: rate[0] * PPM // rate[1])
    to_come = max(0, amount) * left_us // over_us
    total = min(term.committed + to_come, INT64_MAX)
    pressure = ratio_ppm(to_come, headroom)
    return Forecast(total, _exhausted_at(headroom, amount, over_us, term, time), headroom, pressure)


def exhaustion(found: Forecast, pair: Pair, at_ppm: int) -> Signal:
    """The spend to come over what is left: above 1 the budget ends before its period."""
    evidence = (("forecast", found.forecast), ("headroom", found.headroom))
    return Signal("exhaustion", found.pressure_ppm, at_ppm, "ppm", pair.name, evidence)


def _exhausted_at(headroom: int, amount: int, over_us: int, term: Term, time: int) -> int | None:
    if headroom <= 0:
        return time
    if amount <= 0:
        return None
    at = time + headroom * over_us // amount
    return at if at < term.period_end else None
