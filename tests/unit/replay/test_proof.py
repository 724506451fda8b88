"""The proof: prices apart from the meter, exact sums, every difference named."""

from __future__ import annotations

import ast
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import sluice
from sluice.errors import ConfigError, OutsideError
from sluice.metering.prices import default_book
from sluice.metering.rating import cost
from sluice.replay.events import Schedule, usage_event
from sluice.replay.formats import ARENA_MODEL, ARENA_PROVIDER
from sluice.replay.proof import MEASURES, Totals, compare, count, price_pusd, prove, usd_prices
from sluice.replay.rows import TraceRequest

PRICES = usd_prices(default_book().to_json())
FACTS: dict[str, Any] = {
    "tenant_id": "acme", "event_type": "inference", "outcome": "ok", "provider_name": "openai",
    "request_model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100,
    "cache_read_input_tokens": 0, "cache_write_input_tokens": 0, "reasoning_output_tokens": 0,
}  # fmt: skip
ONE = {"events": 1, "input_tokens": 1000, "output_tokens": 100, "cost_pusd": 3_500_000_000}


def imports_of(module: str, seen: set[str]) -> set[str]:
    """Every module of this program that a module imports, directly or not."""
    root = Path(sluice.__file__).parent
    place = root.joinpath(*module.split(".")[1:])
    file = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("sluice") and name not in seen:
                seen.add(name)
                imports_of(name, seen)
    return seen


def test_the_proof_shares_no_code_with_the_meter() -> None:
    """Neither the proof nor what it imports touches metering, enforcement, runtime or money."""
    imported = imports_of("sluice.replay.proof", set())
    assert imported == {"sluice.errors", "sluice.replay.ledger"}


def test_the_walk_over_imports_sees_indirect_ones() -> None:
    """The check above could fail: for the gateway it finds the meter's prices."""
    assert "sluice.metering.rates" in imports_of("sluice.replay.gateway", set())


def test_prices_are_the_published_dollar_amounts() -> None:
    """The book's integers read back as the decimal US dollars that the price list states."""
    usd = PRICES.find(ARENA_MODEL, ARENA_PROVIDER)
    assert usd is not None
    assert (usd["input"], usd["output"]) == (Decimal("5e-08"), Decimal("2.5e-07"))


def test_dollar_prices_match_the_original_list(shared_traces: Path) -> None:
    """For the models of the replays the prices are those of LiteLLM's own file."""
    (file,) = (shared_traces / "litellm-price-book").glob("*.json")
    listed = json.loads(file.read_text(), parse_float=Decimal)
    for model, provider in ((ARENA_MODEL, ARENA_PROVIDER), ("gpt-4o", "openai")):
        usd = PRICES.find(model, provider)
        assert usd is not None
        assert usd["input"] == listed[model]["input_cost_per_token"]
        assert usd["output"] == listed[model]["output_cost_per_token"]


@pytest.mark.parametrize(
    ("over", "expected_pusd"),
    [
        ({}, 1000 * 2_500_000 + 100 * 10_000_000),
        ({"cache_read_input_tokens": 400}, 600 * 2_500_000 + 400 * 1_250_000 + 100 * 10_000_000),
        ({"cache_write_input_tokens": 400}, 1000 * 2_500_000 + 100 * 10_000_000),
        ({"reasoning_output_tokens": 40}, 1000 * 2_500_000 + 100 * 10_000_000),
        ({"response_model": ARENA_MODEL}, 1000 * 50_000 + 100 * 250_000),
        ({"cost_source": "provider", "cost_pusd": 7}, 7),
        ({"event_type": "tool", "input_tokens": 0, "output_tokens": 0}, 0),
        ({"request_model": "nobody's"}, None),
        ({"service_tier": "batch"}, None),
        ({"tokens_by_modality": [{"key": "input.image", "value": 900}]},
         1000 * 2_500_000 + 100 * 10_000_000),
        ({"tokens_by_modality": [{"key": "input.image", "value": 1001}]}, None),
        ({"tokens_by_modality": [{"key": "cache_read.audio", "value": 1}]}, None),
        ({"tokens_by_modality": [{"key": "input.image", "value": 1}] * 2}, None),
        ({"cache_write_by_ttl": [{"key": "3600", "value": 1}]}, None),
        ({"units": [{"key": "images", "value": 1}]}, None),
        ({"server_tool_requests": [{"key": "web_search", "value": 1}]}, None),
        ({"event_type": "correction", "cost_pusd": -5}, None),
        ({"gpu_us": 5}, 1000 * 2_500_000 + 100 * 10_000_000),
    ],
)  # fmt: skip
def test_an_event_costs_what_the_list_says_or_is_left_to_the_meter(
    over: dict[str, Any], expected_pusd: int | None
) -> None:
    """Disjoint classes times dollar rates; what the recount does not know it does not guess."""
    assert price_pusd(FACTS | over, PRICES) == expected_pusd


def test_the_recount_and_the_meter_agree() -> None:
    """Two implementations that share nothing give the same pico-USD for every kind of trace."""
    media = [{"key": f"input.{name}", "value": 77} for name in ("image", "audio", "video")]
    for model, provider, further in (
        (ARENA_MODEL, ARENA_PROVIDER, None), (ARENA_MODEL, "vllm", None),
        ("gpt-4o", "openai", {"tokens_by_modality": media}),
        ("gemini-2.5-flash", "gcp.vertex_ai", {"tokens_by_modality": media}),
        ("deepseek-reasoner", "deepseek", {"reasoning_output_tokens": 600}),
    ):  # fmt: skip
        request = TraceRequest(0, "acme", model, provider, 12_345, 678, 9_012, event=further)
        event = usage_event(Schedule("r1", 1, 1.0), 0, request)
        rated = cost(default_book(), event)
        assert rated is not None
        assert price_pusd(event, PRICES) == rated.cost_pusd


@pytest.mark.parametrize(
    "entry",
    [
        {"effective_from": 5, "tiers": [{"rates_pusd": {"input": 1, "output": 1}}]},
        {"tiers": [{"rates_pusd": {"input": 1, "output": 1}},
                   {"above_input_tokens": 9, "rates_pusd": {"input": 2}}]},
        {"tiers": [{"rates_pusd": {"input": 1}}]},
    ],
)  # fmt: skip
def test_entries_that_are_not_plain_are_not_guessed(entry: dict[str, Any]) -> None:
    """Prices that hold for a time, change with the context or lack output stay the meter's."""
    book = usd_prices(json.dumps({"entries": [{"model": "m", **entry}]}))
    assert price_pusd(FACTS | {"request_model": "m"}, book) is None


@pytest.mark.parametrize(
    ("lists", "over"),
    [
        ({"tools": [{"rates_pusd": {"tool_call": 5}}]}, {"event_type": "tool"}),
        ({"contracts": [{"tenant_id": "acme", "multiplier": "0.5"}]}, {}),
        ({"rates_pusd": {"input": 1, "output": 1, "gpu_us": 1}}, {"gpu_us": 5}),
        ({"rates_pusd": {"input": 0, "output": 0, "images": 1}}, {}),
        ({"tenant_id": "acme"}, {}),
    ],
)  # fmt: skip
def test_prices_beyond_tokens_are_left_to_the_meter(
    lists: dict[str, Any], over: dict[str, Any]
) -> None:
    """Tools, contracts, GPU time, units, a tenant's own entry: named, not guessed."""
    plain = {"model": "gpt-4o", "tiers": [{"rates_pusd": {"input": 1, "output": 1}}]}
    rates = lists.pop("rates_pusd", None)
    own = plain | lists if "tenant_id" in lists else plain
    entries = [own | {"tiers": [{"rates_pusd": rates}]} if rates else own]
    whole = {"entries": entries} | ({} if "tenant_id" in lists else lists)
    assert price_pusd(FACTS | over, usd_prices(json.dumps(whole))) is None
    assert price_pusd(FACTS | over, usd_prices(json.dumps({"entries": [plain]}))) is not None


def test_a_request_fee_counts_per_call_that_ran() -> None:
    """The fee of an entry is added for a call, and not for one that never ran."""
    rates = {"input": 1, "output": 1, "request": 5}
    book = usd_prices(json.dumps({"entries": [{"model": "m", "tiers": [{"rates_pusd": rates}]}]}))
    facts = FACTS | {"request_model": "m", "input_tokens": 2, "output_tokens": 0}
    assert price_pusd(facts, book) == 7
    assert price_pusd(facts | {"outcome": "queued_out"}, book) == 2


def test_a_price_finer_than_a_pico_dollar_is_an_error() -> None:
    """Money is never rounded, not even in the proof."""
    book = usd_prices('{"entries": [{"model": "m", "tiers": [{"rates_pusd": '
                      '{"input": 0.5, "output": 1}}]}]}')  # fmt: skip
    with pytest.raises(ValueError, match="no whole number of pico-USD"):
        price_pusd(FACTS | {"request_model": "m", "input_tokens": 1}, book)


def test_ledgers_add_up_per_tenant(tmp_path: Path) -> None:
    """Intents count once each; dones, refusals and cut lines count nothing."""
    ledger = tmp_path / "ledger-0.jsonl"
    lines = [json.dumps({"intent": n, **FACTS, "tenant_id": t}) for n, t in enumerate("aab")]
    lines += ['{"done": 0}', '{"refused": 9, "tenant_id": "a"}', '{"intent": 7, "tena']
    ledger.write_text("\n".join(lines))
    totals = count([ledger], PRICES)
    assert totals.by_tenant["b"] == ONE
    assert totals.of("a", "cost_pusd") == 2 * ONE["cost_pusd"]
    assert totals.total("events") == 3


def counted(*tenants: str) -> Totals:
    """One event of FACTS per named tenant."""
    totals = Totals()
    for tenant in tenants:
        totals.add(tenant, ONE)
    return totals


class Warehouse:
    """Answers both queries with rows, a list per look; the last list stays."""

    def __init__(self, *looks: list[dict[str, Any]]) -> None:
        self.looks = [list(look) for look in looks]
        self.away = 0

    def rows(self, query: str) -> list[dict[str, Any]]:
        if self.away:
            self.away -= 1
            raise OutsideError("away")
        if "FROM usage_windows" in query and len(self.looks) > 1:
            return self.looks.pop(0)
        return self.looks[0]


def row(tenant: str, **over: int) -> dict[str, Any]:
    """A row of sums as ClickHouse gives it, numbers as text."""
    sums = {name: str((ONE | over)[name]) for name in MEASURES}
    return {"tenant_id": tenant, **{f"n_{name}": value for name, value in sums.items()}}


@pytest.mark.parametrize("over", [{name: ONE[name] + 1} for name in MEASURES])
def test_one_unit_of_difference_fails_the_proof(over: dict[str, int]) -> None:
    """A token or a pico-dollar too many is named with tenant, measure and both tables."""
    proof = compare(counted("a", "b"), Warehouse([row("a"), row("b", **over)]).rows, "replay-r1")
    (difference,) = proof.differences
    ((name, value),) = over.items()
    assert difference == (f"b {name}: counted {ONE[name]}, usage_events {value}, "
                          f"usage_windows {value}")  # fmt: skip


@pytest.mark.parametrize("rows", [[row("a")], [row("a"), row("b"), row("c")]])
def test_a_tenant_too_few_or_too_many_fails_the_proof(rows: list[dict[str, Any]]) -> None:
    """Usage that is missing in ClickHouse shows, and so does usage that nobody counted."""
    assert not compare(counted("a", "b"), Warehouse(rows).rows, "replay-r1").equal


def test_a_cost_left_to_the_meter_is_still_compared_between_tables() -> None:
    """Without a recount of a tenant's cost, raw events and windows must agree on it."""
    totals = counted("a")
    totals.uncounted.add("a")
    dear, dearer = row("a", cost_pusd=5), row("a", cost_pusd=6)
    assert compare(totals, Warehouse([dear]).rows, "replay-r1").equal
    split = {"usage_events": [dear], "usage_windows": [dearer]}
    proof = compare(totals, lambda q: split["usage_events" if "usage_events" in q else
                                            "usage_windows"], "replay-r1")  # fmt: skip
    assert proof.differences == ["a cost_pusd: usage_events 5, usage_windows 6"]


def test_the_proof_waits_for_clickhouse_and_looks_twice() -> None:
    """It outlasts an absence and a backlog, and a change after the first equality fails it."""
    warehouse = Warehouse([], [row("a")], [row("a")])
    warehouse.away = 1
    seen: list[list[str]] = []
    proof = prove(counted("a"), warehouse.rows, "replay-r1", confirm_s=0, watch=seen.append)
    assert proof.equal
    assert seen[0] == ["away"]
    again = Warehouse([row("a")], [row("a", events=2)])
    assert not prove(counted("a"), again.rows, "replay-r1", confirm_s=0).equal


def test_the_wait_is_bounded() -> None:
    """What never becomes equal is reported, and a ClickHouse that stays away is an error."""
    assert prove(counted("a"), Warehouse([]).rows, "replay-r1", timeout_s=0).differences
    gone = Warehouse([])
    gone.away = 99
    with pytest.raises(OutsideError):
        prove(counted("a"), gone.rows, "replay-r1", timeout_s=0)


def test_a_project_that_no_replay_made_is_refused() -> None:
    """Nothing but a replay's own project id gets into a query."""
    with pytest.raises(ConfigError):
        compare(counted(), Warehouse([]).rows, "x' OR '1' = '1")
