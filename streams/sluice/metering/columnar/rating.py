"""What many events cost: one look-up per kind of event, one multiplication per class.

Decided here are inferences and embeddings with plain tokens (contracts, service tiers and request
fees included) and tool calls without tokens. Left to `rating.cost` are corrections, GPU records,
billed amounts, cache lifetimes, modalities, units, server tools, measured GPU time or KV cache that
has a price, contexts beyond a price threshold, and whatever might leave 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.classes import RATE_CLASSES
from sluice.metering.columnar.prices import Answer, Prices, blank_event, names_of
from sluice.metering.columnar.usage import Groups, Usage, grouped
from sluice.metering.listed import tariff_of
from sluice.metering.quantities import CLASS_LISTS, TOKENS, ran
from sluice.metering.rating import cost
from sluice.money import INT64_MAX
from sluice.wire.column_types import Bools, Ints

# In the order of RATE_CLASSES, which parts of a cost have.
_CLASSES = ("input", "cache_read", "cache_write", "output", "reasoning", "request", "tool_call")
_REQUEST, _TOOL_CALL = _CLASSES.index("request"), _CLASSES.index("tool_call")
_CODE = np.array([RATE_CLASSES.index(name) for name in _CLASSES], dtype=np.int64)
_MODEL = ("provider_name", "request_model", "response_model", "service_tier")
_MEASURED = ("gpu_us", "kv_byte_ms")
# Far enough from 64 bits that rounding of the estimate is no matter.
_ROOM = float(2**62)
_MOST_FACTOR = 2**62
_MOST_DIVISOR = 2**31


class Parts(NamedTuple):
    """Parts of costs, ordered by row and class; `key` is a place in RATE_CLASSES."""

    row: Ints
    key: Ints
    quantity: Ints
    cost_pusd: Ints


class Rated(NamedTuple):
    """Costs in pico-USD: 0 where not `priced`; rows not `done` are left open, without parts.

    `contract`: by the tenant's own terms.
    """

    cost_pusd: Ints
    priced: Bools
    done: Bools
    contract: Bools
    parts: Parts

    def take(self, kept: Bools) -> Rated:
        """The costs of some rows only."""
        chosen = kept[self.parts.row]
        row, *rest = (column[chosen] for column in self.parts)
        parts = Parts((np.cumsum(kept) - 1)[row], *rest)
        return Rated(self.cost_pusd[kept], self.priced[kept], self.done[kept],
                     self.contract[kept], parts)  # fmt: skip


class _Terms(NamedTuple):
    """What the requests of one group pay: per class factor / divisor, -1 where there is no rate."""

    factors: tuple[int, ...] = (-1,) * len(_CLASSES)
    divisor: int = 1
    most_input: int = INT64_MAX
    found: bool = False
    needs_units: bool = False
    free_tokens: bool = False
    rated_gpu: bool = False
    rated_kv: bool = False
    contract: bool = False


_OPEN = _Terms(most_input=-1)  # of a group that `cost` has to decide


class _Sums(NamedTuple):
    """A row per event, a column per class."""

    quantity: Ints
    cost_pusd: Ints
    priced: Bools
    done: Bools
    contract: Bools


def rate(usage: Usage, prices: Prices) -> Rated:
    """Costs of events that passed their checks; the function `cost` of one event, for many."""
    requests, calls = _plain_requests(usage), _plain_calls(usage)
    amounts, flags = (usage.rows, len(_CLASSES)), usage.rows
    sums = _Sums(np.zeros(amounts, dtype=np.int64), np.zeros(amounts, dtype=np.int64),
                 *(np.zeros(flags, dtype=np.bool_) for _ in range(3)))  # fmt: skip
    _rate_requests(usage, prices, np.flatnonzero(requests), sums)
    _rate_calls(usage, prices, np.flatnonzero(calls), sums)
    return _summed(sums)


def _summed(sums: _Sums) -> Rated:
    row, column = np.nonzero(sums.quantity)
    parts = Parts(row, _CODE[column], sums.quantity[row, column], sums.cost_pusd[row, column])
    return Rated(sums.cost_pusd.sum(axis=1), sums.priced, sums.done, sums.contract, parts)


def _plain_requests(usage: Usage) -> Bools:
    """Requests for which nothing but tokens can cost anything."""
    return usage.requests() & ~usage.lists(*CLASS_LISTS) & ~_billed(usage)


def _plain_calls(usage: Usage) -> Bools:
    """Tool calls that used nothing but the tool."""
    found = usage.coded("event_type").where("tool") & ~usage.lists(*CLASS_LISTS) & ~_billed(usage)
    for name in (*TOKENS, *_MEASURED):
        found &= usage.number(name).value == 0
    return found


def _billed(usage: Usage) -> Bools:
    return usage.number("cost_pusd").known & usage.coded("cost_source").where("provider")


def _ran(usage: Usage) -> Bools:
    outcomes = usage.coded("outcome")
    reached = [ran({"event_type": "inference", "outcome": name}) for name in outcomes.values]
    return np.array(reached, dtype=np.bool_)[outcomes.codes]


def _rate_requests(usage: Usage, prices: Prices, rows: Ints, sums: _Sums) -> None:
    if not len(rows):
        return
    usage = usage.take(rows) if len(rows) < usage.rows else usage
    groups = grouped(*_named(usage, prices, "event_type"))
    found = _asked(usage, prices, groups, ("event_type",), _terms)
    terms = _Columns(found, groups.of)
    reached, quantity = _ran(usage), _quantities(usage)
    listed, factor = terms.flag("found"), terms.factors()
    quantity[:, _REQUEST] = reached & (factor[:, _REQUEST] >= 0)
    unknown = (quantity != 0) & (factor < 0)
    priced = listed & ~(terms.flag("needs_units") & reached)
    priced &= terms.flag("free_tokens") | ~unknown.any(axis=1)
    quantity[~priced, _REQUEST] = 0
    factor[unknown | ~priced[:, None]] = 0
    done = usage.number("input_tokens").value <= terms.number("most_input")
    done &= (quantity.astype(np.float64) * factor).sum(axis=1) < _ROOM
    for name, rated in (("gpu_us", "rated_gpu"), ("kv_byte_ms", "rated_kv")):
        done &= (usage.number(name).value == 0) | ~terms.flag(rated)
    amount = _divided(quantity * np.maximum(factor, 0), terms.number("divisor")[:, None])
    quantity[~done] = amount[~done] = 0
    sums.quantity[rows], sums.cost_pusd[rows] = quantity, amount
    sums.priced[rows], sums.done[rows] = priced & done, done
    sums.contract[rows] = terms.flag("contract")


def _asked(
    usage: Usage, prices: Prices, groups: Groups, more: tuple[str, ...],
    answer: Callable[[Prices, Mapping[str, Any]], Answer],
) -> list[Answer]:  # fmt: skip
    """What `answer` says of the first event of each group, asked once for all that are alike."""
    first = groups.first
    tenants = prices.tenants(usage.coded("tenant_id"))[first].tolist()
    intervals = prices.interval(usage.number("occurred_at").value[first]).tolist()
    questions = zip(names_of(usage, (*_MODEL, *more), first), tenants, intervals, strict=True)
    return [
        prices.kept.get(
            (answer.__name__, *question), partial(_answered, answer, prices, usage, row)
        )
        for row, question in zip(first.tolist(), questions, strict=True)
    ]


def _answered(
    answer: Callable[[Prices, Mapping[str, Any]], Answer], prices: Prices, usage: Usage, row: int
) -> Answer:
    return answer(prices, blank_event(usage, row))


def _named(usage: Usage, prices: Prices, *more: str) -> list[Ints]:
    """What the look-up of a model's price depends on."""
    return [*(usage.coded(name).codes for name in (*_MODEL, *more)),
            prices.tenants(usage.coded("tenant_id")),
            prices.interval(usage.number("occurred_at").value)]  # fmt: skip


def _quantities(usage: Usage) -> Ints:
    """Disjoint amounts per class; those of passed events are not negative."""
    whole, output, read, written, reasoning = (usage.number(name).value for name in TOKENS)
    none = np.zeros(usage.rows, dtype=np.int64)
    return np.stack(
        [whole - read - written, read, written, output - reasoning, reasoning, none, none], axis=1
    )


def _terms(prices: Prices, event: Mapping[str, Any]) -> _Terms:
    found = None if prices.book is None else tariff_of(prices.book, event)
    if found is None:
        return _Terms()
    entry, card, (numerator, divisor), source = found
    stated = [card.rates_pusd.get(name) for name in _CLASSES[:_TOOL_CALL]]
    factors = [-1 if rate is None else rate * numerator for rate in stated]
    if max(factors) > _MOST_FACTOR or divisor > _MOST_DIVISOR:
        return _OPEN
    return _Terms(
        (*factors, -1), divisor, entry.lowest_threshold, found=True, needs_units=entry.by_unit,
        free_tokens=entry.free_tokens, rated_gpu="gpu_us" in card.rates_pusd,
        rated_kv="kv_byte_ms" in card.rates_pusd, contract=source == "contract",
    )  # fmt: skip


class _Columns:
    """Terms of all rows, from those of their groups."""

    def __init__(self, terms: Sequence[_Terms], of: Ints) -> None:
        self._terms = terms
        self._of = of

    def factors(self) -> Ints:
        """A row per event, a column per class."""
        return np.array([term.factors for term in self._terms], dtype=np.int64)[self._of]

    def number(self, name: str) -> Ints:
        """One number of each row."""
        values = [getattr(term, name) for term in self._terms]
        return np.array(values, dtype=np.int64)[self._of]

    def flag(self, name: str) -> Bools:
        """One truth of each row."""
        return self.number(name).astype(np.bool_)


def _divided(numerator: Ints, divisor: Ints) -> Ints:
    """Quotients rounded half even, like `parts.divided`."""
    if not (divisor > 1).any():
        return numerator
    quotient = numerator // divisor
    twice = 2 * (numerator - quotient * divisor)
    up: Bools = (twice > divisor) | ((twice == divisor) & (quotient % 2 == 1))
    return quotient + up.astype(np.int64)


def _rate_calls(usage: Usage, prices: Prices, rows: Ints, sums: _Sums) -> None:
    """Calls of a group all cost the same: that of the first one."""
    if not len(rows):
        return
    usage = usage.take(rows) if len(rows) < usage.rows else usage
    more = ("tool_name", "tool_server", "outcome")
    groups = grouped(*_named(usage, prices, *more))
    found = _asked(usage, prices, groups, more, _call)
    of = np.array(found, dtype=np.int64)[groups.of]
    sums.quantity[rows, _TOOL_CALL], sums.cost_pusd[rows, _TOOL_CALL] = of[:, 0], of[:, 1]
    sums.priced[rows], sums.done[rows], sums.contract[rows] = of[:, 2], of[:, 3], of[:, 4]


def _call(prices: Prices, event: Mapping[str, Any]) -> tuple[int, int, bool, bool, bool]:
    """Quantity and cost of the only part of a call: priced, done, by the tenant's own terms."""
    try:
        rated = cost(prices.book, event)
    except OverflowError:
        return 0, 0, False, False, False
    contract = rated is not None and rated.cost_source == "contract"
    if rated is None or not rated.parts:
        return 0, 0, rated is not None, True, contract
    ((key, quantity, cost_pusd), *more) = rated.parts
    if key != "tool_call" or more:
        return 0, 0, False, False, False
    return quantity, cost_pusd, True, True, contract
