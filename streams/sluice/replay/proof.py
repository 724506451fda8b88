"""The proof: what ClickHouse holds equals a count taken before the emitter, priced independently.

Nothing of `sluice.metering` is used: counts come from the gateways' ledgers, prices from the price
book's JSON as decimal US dollars, arithmetic from `decimal`. What this does not price by itself
(service tiers, cached or unknown modalities, cache lifetimes, long contexts, other units than
tokens, prices of tools and GPU time, contracts, corrections, entries that hold for a time) it names
instead of guessing.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

from sluice.errors import ConfigError, OutsideError
from sluice.replay.ledger import read_lines

MEASURES = ("events", "input_tokens", "output_tokens", "cost_pusd")
_PUSD_PER_USD = Decimal(10) ** 12
_EXACT = Context(prec=60)
_BEYOND = ("service_tier", "cache_write_by_ttl", "units", "server_tool_requests")
_MEASURED = ("gpu_us", "kv_byte_ms")
# Key of tokens_by_modality -> the rate of these tokens, and the class that they are taken from.
_MODALITIES = {f"{way}.{name}": (f"{way}_{name}", way)
               for way in ("input", "output") for name in ("image", "audio", "video")}  # fmt: skip
_PLAIN = frozenset({"input", "cache_read", "cache_write", "output", "reasoning", "request"})
_RUN = frozenset({"inference", "embedding"})
_NEVER_RAN = frozenset({"rejected", "throttled", "queued_out"})

_OUTPUTS = frozenset({"output", "reasoning", "output_image", "output_audio", "output_video"})

UsdRates = Mapping[str, Decimal]


@dataclass(slots=True)
class Totals:
    """Sums per tenant; `uncounted`: tenants of whom some cost could not be priced here."""

    by_tenant: dict[str, dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: dict.fromkeys(MEASURES, 0))
    )
    uncounted: set[str] = field(default_factory=set)

    def add(self, tenant_id: str, amounts: Mapping[str, int]) -> None:
        """Add amounts to a tenant's sums."""
        sums = self.by_tenant[tenant_id]
        for name, amount in amounts.items():
            sums[name] += amount

    def of(self, tenant_id: str, measure: str) -> int:
        """A tenant's sum; 0 for a tenant that is not there."""
        return self.by_tenant[tenant_id][measure] if tenant_id in self.by_tenant else 0

    def total(self, measure: str) -> int:
        """Sum of a measure over all tenants."""
        return sum(amounts[measure] for amounts in self.by_tenant.values())


class UsdBook:
    """Rates in US dollars per token, of entries that have one plain tier from always to always.

    `has_tools`: the book knows what tools cost; `tenants`: who has prices of their own.
    """

    def __init__(self, book: Mapping[str, Any]) -> None:
        self._rates: dict[tuple[str, str | None], UsdRates] = {}
        self._timed: set[str] = set()
        self.has_tools = bool(book.get("tools"))
        own = (*book["entries"], *book.get("tools", ()), *book.get("contracts", ()))
        self.tenants = {item["tenant_id"] for item in own if item.get("tenant_id")}
        for entry in book["entries"]:
            if not entry.get("tenant_id"):
                self._take(entry)

    def find(self, model: str, provider: str) -> UsdRates | None:
        """Rates of a model at a provider, else of any, else of the only provider that has it."""
        if model in self._timed:
            return None
        for key in ((model, provider), (f"{provider}/{model}", provider), (model, None)):
            if key in self._rates:
                return self._rates[key]
        only = [rates for (name, _), rates in self._rates.items() if name == model]
        return only[0] if len(only) == 1 else None

    def _take(self, entry: Mapping[str, Any]) -> None:
        plain = [t for t in entry["tiers"] if not t.get("service_tier")]
        timed = entry.get("effective_from") or entry.get("effective_to")
        if timed or len(plain) != 1 or plain[0].get("above_input_tokens"):
            self._timed.add(entry["model"])
            return
        with localcontext(_EXACT):
            usd = {name: Decimal(pusd) / _PUSD_PER_USD
                   for name, pusd in plain[0]["rates_pusd"].items()}  # fmt: skip
        self._rates[entry["model"], entry.get("provider")] = usd


def usd_prices(book_json: str) -> UsdBook:
    """The prices in a price book's JSON."""
    return UsdBook(json.loads(book_json, parse_float=Decimal))


def count(ledgers: Iterable[Path], prices: UsdBook) -> Totals:
    """Totals of what gateways were about to hand to their emitters."""
    totals = Totals()
    for facts in (line for path in ledgers for line in read_lines(path) if "intent" in line):
        cost_pusd = price_pusd(facts, prices)
        if cost_pusd is None:
            totals.uncounted.add(facts["tenant_id"])
        tokens = {name: facts[name] for name in ("input_tokens", "output_tokens")}
        totals.add(facts["tenant_id"], {"events": 1, **tokens, "cost_pusd": cost_pusd or 0})
    return totals


def price_pusd(facts: Mapping[str, Any], book: UsdBook) -> int | None:
    """Cost of one event in pico-USD; None where it takes more than this module knows.

    Raises ValueError where the amount is finer than a pico-USD.
    """
    if facts.get("cost_source") == "provider" and facts.get("cost_pusd") is not None:
        return int(facts["cost_pusd"])
    is_tool = facts["event_type"] == "tool"
    if any(facts.get(name) for name in _BEYOND) or facts["event_type"] == "correction":
        return None
    if facts.get("tenant_id") in book.tenants or (is_tool and book.has_tools):
        return None
    usd = book.find(facts.get("response_model") or facts["request_model"], facts["provider_name"])
    if any(facts.get(name) and (usd is None or name in usd) for name in _MEASURED):
        return None
    if is_tool and not (facts["input_tokens"] or facts["output_tokens"]):
        return 0
    tokens = _tokens(facts)
    if usd is None or "input" not in usd or "output" not in usd or tokens is None:
        return None
    if not any(usd.get(name) for name in ("input", "output", "request")) and usd.keys() - _PLAIN:
        return None  # billed by another unit, which the event may lack
    with localcontext(_EXACT):
        pico = _usd(facts, tokens, usd) * _PUSD_PER_USD
        if pico != pico.to_integral_value():
            raise ValueError(f"{pico} is no whole number of pico-USD")
        return int(pico)


def _tokens(facts: Mapping[str, Any]) -> dict[str, int] | None:
    """Disjoint token counts by the name of their rate; None for modalities it cannot place."""
    read, written = facts["cache_read_input_tokens"], facts["cache_write_input_tokens"]
    reasoning = facts["reasoning_output_tokens"]
    tokens = {
        "input": facts["input_tokens"] - read - written,
        "cache_read": read,
        "cache_write": written,
        "output": facts["output_tokens"] - reasoning,
        "reasoning": reasoning,
    }
    for item in facts.get("tokens_by_modality") or ():
        rate, side = _MODALITIES.get(item["key"], ("", ""))
        if not rate or rate in tokens:
            return None
        tokens[side] -= item["value"]
        tokens[rate] = item["value"]
    return None if min(tokens.values()) < 0 else tokens


def _usd(facts: Mapping[str, Any], tokens: Mapping[str, int], usd: UsdRates) -> Decimal:
    """Dollars of disjoint token counts; what has no rate of its own costs as its side does."""
    called = facts["event_type"] in _RUN and facts["outcome"] not in _NEVER_RAN
    amount = usd.get("request", Decimal(0)) if called else Decimal(0)
    for name, count in tokens.items():
        side = "output" if name in _OUTPUTS else "input"
        amount += count * usd.get(name, usd[side])
    return amount


# Window rows are published every 5 s: what still came would show by then.
CONFIRM_S = 6.0
TIMEOUT_S = 120.0
_POLL_S = 0.5

Row = dict[str, Any]
Rows = Callable[[str], list[Row]]

QUERIES = {
    "usage_events": (
        "SELECT tenant_id, count() AS n_events, toString(sum(input_tokens)) AS n_input_tokens, "
        "toString(sum(output_tokens)) AS n_output_tokens, "
        "toString(sum(toInt128(ifNull(cost_pusd, 0)))) AS n_cost_pusd "
        "FROM usage_events FINAL WHERE project_id = '{project}' AND event_type != 'admission' "
        "GROUP BY tenant_id"
    ),
    "usage_windows": (
        "SELECT tenant_id, sum(events) AS n_events, toString(sum(input_tokens)) AS n_input_tokens, "
        "toString(sum(output_tokens)) AS n_output_tokens, "
        "toString(sum(toInt128(cost_pusd))) AS n_cost_pusd "
        "FROM usage_windows FINAL WHERE project_id = '{project}' GROUP BY tenant_id"
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proof:
    """Both sides of the comparison and every difference between them."""

    counted: Totals
    stored: dict[str, Totals]
    differences: list[str]

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        return not self.differences


def prove(
    counted: Totals, rows: Rows, project_id: str, *, timeout_s: float = TIMEOUT_S,
    confirm_s: float = CONFIRM_S, watch: Callable[[list[str]], None] = lambda _: None,
) -> Proof:  # fmt: skip
    """Compare with ClickHouse; returns when all is equal and stays so, or `timeout_s` is over.

    `watch` gets the differences that are left at each look. A ClickHouse that does not answer is
    asked again; OutsideError where it never did.
    """
    deadline = time.monotonic() + timeout_s
    proof = _look_until_equal(counted, rows, project_id, deadline, watch)
    if not proof.equal:
        return proof
    # Equal once could still be followed by a second count of something.
    time.sleep(confirm_s)
    return compare(counted, rows, project_id)


def _look_until_equal(counted: Totals, rows: Rows, project_id: str, deadline: float,
                      watch: Callable[[list[str]], None]) -> Proof:  # fmt: skip
    while True:
        late = time.monotonic() > deadline
        try:
            proof = compare(counted, rows, project_id)
        except OutsideError as error:
            if late:
                raise
            watch([str(error)])
        else:
            if proof.equal or late:
                return proof
            watch(proof.differences)
        time.sleep(_POLL_S)


def compare(counted: Totals, rows: Rows, project_id: str) -> Proof:
    """One look: raw events and windows of a run against the count."""
    if not project_id.replace("-", "").isalnum():
        raise ConfigError(f"{project_id!r} is no replay's project")
    stored = {table: _totals(rows(query.format(project=project_id)))
              for table, query in QUERIES.items()}  # fmt: skip
    return Proof(counted, stored, list(_differences(counted, stored)))


def _totals(rows: list[Row]) -> Totals:
    totals = Totals()
    for row in rows:
        totals.add(row["tenant_id"], {name: int(row[f"n_{name}"]) for name in MEASURES})
    return totals


def _differences(counted: Totals, stored: dict[str, Totals]) -> Iterator[str]:
    tenants = sorted({t for totals in (counted, *stored.values()) for t in totals.by_tenant})
    for tenant in tenants:
        for measure in MEASURES:
            values = {table: totals.of(tenant, measure) for table, totals in stored.items()}
            if not (measure == "cost_pusd" and tenant in counted.uncounted):
                values = {"counted": counted.of(tenant, measure), **values}
            if len(set(values.values())) > 1:
                said = ", ".join(f"{where} {value}" for where, value in values.items())
                yield f"{tenant} {measure}: {said}"
