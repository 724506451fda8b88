"""Every part of a cost against plain decimal arithmetic on US dollars.

The oracle below shares no code with the meter: it has its own table of units, its own way through
tiers and stand-ins, and calculates in `decimal`.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, usage

from sluice.metering.prices import (
    Contract,
    PriceBook,
    PriceEntry,
    ToolPrice,
    load_book,
)
from sluice.metering.rates import Tier
from sluice.metering.rating import Cost, cost

EXACT = Context(prec=80, rounding=ROUND_HALF_EVEN)
LONG = 200_000

# Of the classes drawn: for how many counted units the price stands.
PRICED_FOR = {
    "pixels": 10**6, "seconds_milli": 1000, "video_seconds_milli": 1000,
    "video_seconds_milli_4k": 1000, "gpu_us": 10**6, "kv_byte_ms": 10**9 * 3600 * 1000,
}  # fmt: skip
TOKENS = ("input", "cache_read", "cache_write", "cache_write_3600", "input_audio",
          "cache_read_audio", "output", "reasoning", "output_image")  # fmt: skip
UNITS = ("images", "images_2k", "pixels", "seconds_milli", "video_seconds_milli_4k", "pages",
         "characters", "queries")  # fmt: skip
SERVER_TOOLS = ("web_search", "web_search_low", "code_interpreter")
MEASURED = ("gpu_us", "kv_byte_ms")
BACKUP = {
    "cache_read": "input", "cache_write": "input", "cache_write_3600": "cache_write",
    "input_audio": "input", "cache_read_audio": "cache_read", "output_image": "output",
    "reasoning": "output", "images_2k": "images", "video_seconds_milli_4k": "video_seconds_milli",
    "web_search_low": "web_search",
}  # fmt: skip
RATED = (*TOKENS, *UNITS, *SERVER_TOOLS, *MEASURED, "video_seconds_milli", "request")
MAY_STATE = ("pages", "seconds_milli", *MEASURED)
PLACES = [(tier, above) for tier in ("", "batch") for above in (0, LONG)]

rates = st.integers(0, 10**10)
few = st.integers(0, 10**6)
# A half makes ties, which rounding must send to the even neighbour.
multipliers = st.just(Decimal("0.5")) | st.decimals(0, 2, places=4, allow_nan=False)

Usd = dict[str, Decimal]


class Case(NamedTuple):
    """An event, what it used by class, and the rates of a book in US dollars by tier."""

    event: dict[str, Any]
    used: dict[str, int]
    usd: dict[tuple[str, int], Usd]


def dollars(found: dict[str, int]) -> Usd:
    """Rates in US dollars."""
    return {name: Decimal(rate).scaleb(-12, EXACT) for name, rate in found.items()}


def pico(quantity: int, usd: Decimal, name: str, multiplier: Decimal = Decimal(1)) -> int:
    """What a quantity costs, in pico-dollars rounded half even."""
    exact = EXACT.multiply(EXACT.multiply(Decimal(quantity), usd), multiplier)
    scaled = EXACT.divide(EXACT.scaleb(exact, Decimal(12)), Decimal(PRICED_FOR.get(name, 1)))
    return int(scaled.quantize(Decimal(1), context=EXACT))


def price(case: Case, name: str) -> Decimal | None:
    """The rate of a class in the case's tier: the nearest tier, else the class behind it."""
    long = case.event["input_tokens"] > LONG
    tier = "batch" if case.event["service_tier"] == "batches" else ""
    for above in (LONG, 0) if long else (0,):
        for asked in (tier, ""):
            if name in case.usd.get((asked, above), {}):
                return case.usd[asked, above][name]
    return price(case, BACKUP[name]) if name in BACKUP else None


def expected(case: Case, multiplier: Decimal = Decimal(1)) -> dict[str, tuple[int, int]]:
    """Quantity and cost per class that was used; a fee and GPU time only where they have a rate."""
    found = {}
    for name, quantity in case.used.items():
        usd = price(case, name)
        if not quantity or (usd is None and name in (*MEASURED, "request")):
            continue
        found[name] = (quantity, 0 if usd is None else pico(quantity, usd, name, multiplier))
    return found


def listed(amounts: dict[str, int]) -> list[dict[str, Any]]:
    """Amounts as an event has them."""
    return [{"key": key, "value": value} for key, value in amounts.items()]


@st.composite
def usages(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, int]]:
    """An event's fields and what it used by class, drawn class by class."""
    used = {name: draw(few) for name in (*TOKENS, *UNITS, *SERVER_TOOLS)}
    used |= {name: draw(st.integers(0, 10**15)) for name in MEASURED}
    some = draw(st.sets(st.sampled_from(sorted(used))))
    used = {name: quantity if name in some else 0 for name, quantity in used.items()}
    reads = used["cache_read"] + used["cache_read_audio"]
    writes = used["cache_write"] + used["cache_write_3600"]
    event = {
        "input_tokens": used["input"] + used["input_audio"] + reads + writes,
        "cache_read_input_tokens": reads, "cache_write_input_tokens": writes,
        "cache_write_by_ttl": listed({"3600": used["cache_write_3600"]}),
        "tokens_by_modality": listed({
            "input.audio": used["input_audio"] + used["cache_read_audio"],
            "cache_read.audio": used["cache_read_audio"], "output.image": used["output_image"],
        }),
        "output_tokens": used["output"] + used["reasoning"] + used["output_image"],
        "reasoning_output_tokens": used["reasoning"],
        "units": listed({name: used[name] for name in UNITS}),
        "server_tool_requests": listed({name: used[name] for name in SERVER_TOOLS}),
        "gpu_us": used["gpu_us"], "kv_byte_ms": used["kv_byte_ms"],
        "service_tier": draw(st.sampled_from([None, "batches"])),
    }  # fmt: skip
    return event, used


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, tuple[Tier, ...]]:
    """A request that ran, and a model whose tiers state any of the rates."""
    event, used = draw(usages())
    stated = {place: draw(st.dictionaries(st.sampled_from(RATED), rates)) for place in PLACES}
    stated["", 0] |= {"input": draw(rates) + 1, "output": draw(rates) + 1}
    chosen = {place: found for place, found in stated.items() if found}
    tiers = tuple(Tier(*place, found) for place, found in chosen.items())
    usd = {place: dollars(found) for place, found in chosen.items()}
    named = {"provider_name": "p", "request_model": "m"}
    return Case(usage(**named | event), used | {"request": 1}, usd), tiers


def book_of(*entries: PriceEntry, **lists: Any) -> PriceBook:
    """A book that went through its file."""
    return load_book(PriceBook("law", "hand", "none", entries, **lists).to_json())


def rated(book: PriceBook, event: dict[str, Any]) -> Cost:
    """The cost of an event that has one; its parts add up, whatever it is."""
    found = cost(book, event)
    assert found is not None
    assert sum(part.cost_pusd for part in found.parts) == found.cost_pusd
    assert len({part.key for part in found.parts}) == len(found.parts)
    return found


def parts(found: Cost) -> dict[str, tuple[int, int]]:
    """Quantity and cost by class."""
    return {key: (quantity, pusd) for key, quantity, pusd in found.parts}


@given(cases())
def test_every_part_is_what_dollars_say(drawn: tuple[Case, tuple[Tier, ...]]) -> None:
    """Tiers, service tiers, lifetimes, modalities, units, server tools, fees, GPU time, KV."""
    case, tiers = drawn
    found = rated(book_of(PriceEntry("m", "p", tiers)), case.event)
    assert parts(found) == expected(case)
    assert found.cost_source == "estimate"


@given(cases(), multipliers, st.sampled_from([None, "p"]), st.sampled_from([None, "m"]))
def test_a_contract_multiplies_each_part(
    drawn: tuple[Case, tuple[Tier, ...]], multiplier: Decimal, provider: str | None,
    model: str | None,
) -> None:  # fmt: skip
    """Rounded once per part; a less specific contract and one of another tenant do not count."""
    case, tiers = drawn
    others = [Contract("other", Decimal(3)), Contract("acme", Decimal(3), "q")]
    if provider or model:
        others.append(Contract("acme", Decimal(5)))
    contracts = (*others, Contract("acme", multiplier, provider, model))
    found = rated(book_of(PriceEntry("m", "p", tiers), contracts=contracts), case.event)
    assert parts(found) == expected(case, multiplier)
    assert found.cost_source == "contract"


@given(cases(), rates, st.integers(-5, 5), multipliers)
def test_entries_and_contracts_hold_from_until(
    drawn: tuple[Case, tuple[Tier, ...]], rate: int, at: int, multiplier: Decimal
) -> None:
    """Before NOW one price, from NOW on another, under a contract until NOW + 3."""
    case, tiers = drawn
    flat = Tier("", 0, dict.fromkeys(RATED, rate + 1))
    book = book_of(
        PriceEntry("m", "p", (flat,), effective_to=NOW),
        PriceEntry("m", "p", tiers, effective_from=NOW),
        contracts=(Contract("acme", multiplier, effective_to=NOW + 3),),
    )
    if at < 0:
        case = case._replace(usd={("", 0): dollars(dict(flat.rates_pusd))})
    found = rated(book, case.event | {"occurred_at": NOW + at})
    assert parts(found) == expected(case, multiplier if at < 3 else Decimal(1))


@given(cases(), cases())
def test_a_tenants_own_entry_is_its_price(
    drawn: tuple[Case, tuple[Tier, ...]], general: tuple[Case, tuple[Tier, ...]]
) -> None:
    """Whatever others pay, and without the contract's multiplier."""
    case, tiers = drawn
    book = book_of(PriceEntry("m", "p", general[1]), PriceEntry("m", "p", tiers, tenant_id="acme"),
                   contracts=(Contract("acme", Decimal("0.5")),))  # fmt: skip
    assert parts(rated(book, case.event)) == expected(case)


@given(cases(), st.integers(0, 10**15))
def test_a_bill_is_spread_without_a_rest(drawn: tuple[Case, tuple[Tier, ...]], billed: int) -> None:
    """Quantities stay; each share is the exact one rounded up or down, never more off."""
    case, tiers = drawn
    event = case.event | {"cost_pusd": billed, "cost_source": "provider"}
    found = rated(book_of(PriceEntry("m", "p", tiers)), event)
    assert (found.cost_pusd, found.cost_source) == (billed, "provider")
    at_list = expected(case)
    total = sum(pusd for _, pusd in at_list.values())
    shares = parts(found)
    open_part = shares.pop("unclassified", (1, 0))
    assert {name: n for name, (n, _) in shares.items()} == {n: q for n, (q, _) in at_list.items()}
    assert open_part == (1, 0 if total else billed)
    for name, (_, pusd) in shares.items():
        exact = Fraction(at_list[name][1] * billed, total) if total else Fraction(0)
        assert abs(pusd - exact) < 1


@given(cases())
def test_a_correction_takes_every_part_back(drawn: tuple[Case, tuple[Tier, ...]]) -> None:
    """Negated amounts cost negated parts, but for the fee; as stated classes they are the same."""
    case, tiers = drawn
    standard = tuple(tier for tier in tiers if not tier.above_input_tokens)
    book = book_of(PriceEntry("m", "p", standard))
    first = rated(book, case.event)
    back = rated(book, negated(case.event))
    undone = {name: (-n, -pusd) for name, (n, pusd) in parts(first).items() if name != "request"}
    assert parts(back) == undone
    stated = [part._asdict() for part in back.parts]
    event = case.event | {"event_type": "correction", "cost_pusd": back.cost_pusd - 7,
                          "usage_by_class": stated}  # fmt: skip
    assert parts(rated(book, event)) == undone | {"unclassified": (0, -7)}


def negated(event: dict[str, Any]) -> dict[str, Any]:
    """The correction that takes an event back."""
    amounts = {name: -value for name, value in event.items()
               if name.endswith("_tokens") or name in MEASURED}  # fmt: skip
    arrays = {
        name: [{"key": item["key"], "value": -item["value"]} for item in event[name]]
        for name in ("cache_write_by_ttl", "tokens_by_modality", "units", "server_tool_requests")
    }
    return event | amounts | arrays | {"event_type": "correction"}


@given(
    st.fixed_dictionaries({"tool_call": rates}, optional=dict.fromkeys(MAY_STATE, rates)),
    few, few, st.integers(0, 10**15), multipliers, st.sampled_from(["ok", "error", "rejected"]),
)  # fmt: skip
def test_a_tool_call_costs_what_dollars_say(
    stated: dict[str, int], pages: int, milliseconds: int, gpu_us: int, multiplier: Decimal,
    outcome: str,
) -> None:  # fmt: skip
    """Per call that ran, per unit and per GPU-second, under the tenant's contract."""
    book = book_of(tools=(ToolPrice("search", None, stated),),
                   contracts=(Contract("acme", multiplier),))  # fmt: skip
    event = usage(
        event_type="tool", tool_name="search", tool_server="web", outcome=outcome,
        input_tokens=0, output_tokens=0, gpu_us=gpu_us,
        units=listed({"pages": pages, "seconds_milli": milliseconds}),
    )  # fmt: skip
    used = {"tool_call": int(outcome != "rejected"), "pages": pages,
            "seconds_milli": milliseconds, "gpu_us": gpu_us}  # fmt: skip
    usd = dollars(stated)
    assert parts(rated(book, event)) == {
        name: (n, pico(n, usd[name], name, multiplier) if name in usd else 0)
        for name, n in used.items()
        if n and (name in usd or name != "gpu_us")
    }
