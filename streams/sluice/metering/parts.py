"""A cost and its parts, one per priced class, and exact integer division."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sluice.metering.classes import RATE_CLASSES, UNCLASSIFIED

_RANK = {name: rank for rank, name in enumerate(RATE_CLASSES)}


class Part(NamedTuple):
    """How much of one class an event used, in the class's unit, and what that cost."""

    key: str
    quantity: int
    cost_pusd: int


class Cost(NamedTuple):
    """Cost of one event in pico-USD, who says so, what had to be assumed for it, and its parts."""

    cost_pusd: int
    cost_source: str  # "provider": billed; "contract": the tenant's price; "estimate": list price
    price_book_version: str | None
    assumptions: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


def in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The classes that were used, in the order of RATE_CLASSES."""
    used = [name for name, quantity in counts.items() if quantity]
    used.sort(key=_RANK.__getitem__)
    return [(name, counts[name]) for name in used]


def ordered(parts: Iterable[Part]) -> list[Part]:
    """Parts in the order of RATE_CLASSES."""
    return sorted(parts, key=lambda part: _RANK[part.key])


def free_parts(counts: Mapping[str, int]) -> tuple[Part, ...]:
    """Quantities without a cost."""
    return tuple(Part(name, quantity, 0) for name, quantity in in_order(counts))


def unclassified(quantity: int, cost_pusd: int) -> tuple[Part, ...]:
    """The part for a cost that no class explains; none where there is none."""
    return (Part(UNCLASSIFIED, quantity, cost_pusd),) if cost_pusd else ()


def divided(numerator: int, denominator: int) -> int:
    """Quotient rounded half even, the same for a negated numerator but for its sign."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1))


def spread(parts: Sequence[Part], cost_pusd: int) -> tuple[Part, ...] | None:
    """The same quantities for another cost, pro rata of their own; None where they have none.

    Each part gets its share rounded down, then the largest remainders get one pico-USD more, of
    equal ones the earlier part. A share is that of an absolute amount, so that a negative cost is
    the mirror image of the positive one.
    """
    total = sum([part.cost_pusd for part in parts])
    if total <= 0:
        return None
    amount = abs(cost_pusd)
    shares: list[int] = []
    rests: list[int] = []
    for part in parts:
        share, rest = divmod(part.cost_pusd * amount, total)
        shares.append(share)
        rests.append(rest)
    missing = amount - sum(shares)
    if missing:
        for place in sorted(range(len(rests)), key=rests.__getitem__, reverse=True)[:missing]:
            shares[place] += 1
    sign = -1 if cost_pusd < 0 else 1
    return tuple(
        Part(key, quantity, sign * share)
        for (key, quantity, _), share in zip(parts, shares, strict=True)
    )


def merged(parts: Iterable[Part]) -> tuple[Part, ...]:
    """One part per class, in order; classes that have no rate here are left out."""
    sums: dict[str, tuple[int, int]] = {}
    for key, quantity, cost_pusd in parts:
        before = sums.get(key, (0, 0))
        sums[key] = (before[0] + quantity, before[1] + cost_pusd)
    order = (*RATE_CLASSES, UNCLASSIFIED)
    return tuple(Part(key, *sums[key]) for key in order if any(sums.get(key, ())))
