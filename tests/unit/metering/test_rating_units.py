"""What costs beside tokens: units, server tools, tool calls, GPU time, KV cache; and contracts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from tests.builders import NOW, usage

from sluice.metering.prices import Contract, PriceBook, PriceEntry, ToolPrice
from sluice.metering.rates import Tier
from sluice.metering.rating import Cost, cost, unpriced_parts


def _entry(tenant_id: str | None = None, **rates: int) -> PriceEntry:
    return PriceEntry("m", "p", (Tier("", 0, rates),), tenant_id=tenant_id)


def _book(
    *entries: PriceEntry, tools: tuple[ToolPrice, ...] = (), contracts: tuple[Contract, ...] = ()
) -> PriceBook:
    return PriceBook("test", "hand", "none", entries, tools=tools, contracts=contracts)


def _event(**over: Any) -> dict[str, Any]:
    named = {"provider_name": "p", "request_model": "m", "input_tokens": 0, "output_tokens": 0}
    return usage(**named | over)


def _amounts(**values: int) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _cost(book: PriceBook, **over: Any) -> Cost:
    rated = cost(book, _event(**over))
    assert rated is not None
    assert sum(part.cost_pusd for part in rated.parts) == rated.cost_pusd
    return rated


def _pusd(book: PriceBook, **over: Any) -> int | None:
    rated = cost(book, _event(**over))
    return None if rated is None else rated.cost_pusd


@pytest.mark.parametrize(
    ("name", "quantity", "rate", "pusd"),
    [
        ("images", 3, 40_000_000_000, 120_000_000_000),
        ("seconds_milli", 1_500, 100_000_000, 150_000_000),
        ("pixels", 1_048_576, 83_923_300_000, 87_999_958_221),
        ("pages", 7, 3_000_000_000, 21_000_000_000),
        ("characters", 1_000, 15_000_000, 15_000_000_000),
        ("video_seconds_milli_1080p", 2_001, 5, 10),
    ],
)
def test_units_are_billed_by_the_rate_of_their_class(
    name: str, quantity: int, rate: int, pusd: int
) -> None:
    """Per image, second, million pixels, page, character; rounded once, half even."""
    rated = _cost(_book(_entry(**{name: rate})), units=_amounts(**{name: quantity}))
    assert rated.parts == ((name, quantity, pusd),)
    assert rated.assumptions == ()


def test_a_resolution_without_a_rate_takes_the_plain_one() -> None:
    """And the result says so."""
    rated = _cost(_book(_entry(images=5)), units=_amounts(images_4k=2))
    assert rated.parts == (("images_4k", 2, 10),)
    assert rated.assumptions == ("images_4k at the images rate",)


def test_a_key_that_is_listed_twice_counts_in_sum() -> None:
    """As one part."""
    units = [*_amounts(pages=2), *_amounts(pages=3)]
    assert _cost(_book(_entry(pages=5)), units=units).parts == (("pages", 5, 25),)


def test_a_model_billed_by_units_is_unpriced_without_them() -> None:
    """Its tokens are free, yet a request without any unit is unknown and not free."""
    for rates in ({"images": 5}, {"images": 5, "input": 0, "output": 0}):
        book = _book(_entry(**rates))
        assert _pusd(book, input_tokens=9) is None
        assert _pusd(book, input_tokens=9, units=_amounts(pages=2)) is None
        assert _pusd(book, input_tokens=9, outcome="rejected") == 0
        rated = _cost(book, input_tokens=9, units=_amounts(images=2))
        assert rated.parts == (("input", 9, 0), ("images", 2, 10))


def test_a_free_model_stays_free() -> None:
    """Where all rates are 0, also those of units, tokens alone cost 0."""
    assert _pusd(_book(_entry(input=0, output=0, images=0)), input_tokens=9) == 0


def test_a_free_model_with_a_paid_search_is_not_billed_by_the_search() -> None:
    """A request without a search costs 0 there."""
    book = _book(_entry(input=0, output=0, web_search=7))
    assert _pusd(book, input_tokens=9) == 0
    assert _pusd(book, input_tokens=9, server_tool_requests=_amounts(web_search=2)) == 14


def test_server_tools_are_billed_per_call() -> None:
    """Searches by the context that they bring; without a rate of its own the medium one."""
    asked = _amounts(web_search=2, web_search_low=1, web_search_high=1, google_maps=1)
    rated = _cost(_book(_entry(input=1, output=1, web_search=10, web_search_low=6, google_maps=3)),
                  server_tool_requests=asked)  # fmt: skip
    assert [part.cost_pusd for part in rated.parts] == [20, 6, 10, 3]
    assert rated.assumptions == ("web_search_high at the web_search rate",)


SEARCH = ToolPrice("search", "web", {"tool_call": 100})
TOOLS = (SEARCH, ToolPrice("search", None, {"tool_call": 50}),
         ToolPrice(None, "web", {"tool_call": 20}),
         ToolPrice("search", "web", {"tool_call": 7}, tenant_id="own"))  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "server", "tenant", "pusd", "source"),
    [
        ("search", "web", "acme", 100, "estimate"),
        ("search", None, "acme", 50, "estimate"),
        ("search", "files", "acme", 50, "estimate"),
        ("fetch", "web", "acme", 20, "estimate"),
        ("search", "web", "own", 7, "contract"),
        ("search", None, "own", 50, "estimate"),
    ],
)
def test_the_most_specific_tool_price_counts(
    tool: str, server: str | None, tenant: str, pusd: int, source: str
) -> None:
    """The tenant's before all others', the name before the server."""
    rated = _cost(_book(tools=TOOLS), event_type="tool", tool_name=tool, tool_server=server,
                  tenant_id=tenant)  # fmt: skip
    assert (rated.parts, rated.cost_source) == ((("tool_call", 1, pusd),), source)


def test_a_tool_that_a_book_with_tools_lacks_is_unpriced() -> None:
    """A wildcard at 0 says that all others are free."""
    call = {"event_type": "tool", "tool_name": "other"}
    assert _pusd(_book(tools=(SEARCH,)), **call) is None
    free = _cost(_book(tools=(SEARCH, ToolPrice(None, None, {"tool_call": 0}))), **call)
    assert (free.parts, free.assumptions) == ((("tool_call", 1, 0),), ())


def test_a_call_that_never_ran_costs_nothing() -> None:
    """No tool was called."""
    book = _book(tools=TOOLS)
    for outcome, pusd in (("ok", 100), ("error", 100), ("throttled", 0)):
        assert _pusd(book, event_type="tool", tool_name="search", tool_server="web",
                     outcome=outcome) == pusd  # fmt: skip


def test_a_tool_call_has_units_time_and_the_tokens_of_its_model() -> None:
    """The tool's rates come first; the model's bill the rest; tokens without a model do not."""
    tool = ToolPrice("ocr", None, {"tool_call": 1, "pages": 10, "gpu_us": 2_000_000})
    call = {"event_type": "tool", "tool_name": "ocr", "units": _amounts(pages=2), "gpu_us": 3,
            "input_tokens": 4}  # fmt: skip
    rated = _cost(_book(_entry(input=5, output=5, pages=99, gpu_us=9), tools=(tool,)), **call)
    assert rated.parts == (("input", 4, 20), ("pages", 2, 20), ("tool_call", 1, 1),
                           ("gpu_us", 3, 6))  # fmt: skip
    assert _pusd(_book(tools=(tool,)), **call) is None


GPU = {"gpu_us": 700_000_000, "kv_byte_ms": 20_000_000_000}
HOUR_OF_80_GB = 80 * 10**9 * 3_600_000


@pytest.mark.parametrize("event_type", ["inference", "embedding", "gpu_adjustment", "tool"])
def test_gpu_time_and_kv_cache_have_rates(event_type: str) -> None:
    """Per GPU-second and per gigabyte-hour; tokens of a self-hosted model are free but counted."""
    rated = _cost(_book(_entry(**GPU)), event_type=event_type, gpu_us=2_500_000,
                  kv_byte_ms=HOUR_OF_80_GB)  # fmt: skip
    assert rated.parts == (("gpu_us", 2_500_000, 1_750_000_000),
                           ("kv_byte_ms", HOUR_OF_80_GB, 1_600_000_000_000))  # fmt: skip


def test_tokens_of_a_self_hosted_model_are_free_but_counted() -> None:
    """Also before its GPU time is known."""
    rated = _cost(_book(_entry(**GPU)), input_tokens=9, gpu_us=None)
    assert (rated.parts, rated.assumptions) == ((("input", 9, 0),), ())


def test_gpu_time_without_a_rate_is_no_part() -> None:
    """Events have a field of their own for it."""
    assert _cost(_book(_entry(input=1, output=1)), input_tokens=2, gpu_us=5).parts == (
        ("input", 2, 2),
    )
    adjusted = _cost(_book(), event_type="gpu_adjustment", gpu_us=5)
    assert (adjusted.cost_pusd, adjusted.parts) == (0, ())


def test_fees_and_gpu_rates_are_those_of_every_tier() -> None:
    """A batch tier that states tokens only asks the same for them, which is no assumption."""
    tiers = (Tier("", 0, {"input": 10, "output": 1, "web_search": 7, "gpu_us": 10**6}),
             Tier("batch", 0, {"input": 5, "output": 1}))  # fmt: skip
    rated = _cost(_book(PriceEntry("m", "p", tiers)), service_tier="batch", input_tokens=2,
                  gpu_us=3, server_tool_requests=_amounts(web_search=1))  # fmt: skip
    assert rated.parts == (("input", 2, 10), ("web_search", 1, 7), ("gpu_us", 3, 3))
    assert rated.assumptions == ()


def test_a_correction_takes_gpu_time_and_units_back() -> None:
    """With the same rounding, so that nothing is left."""
    book = _book(_entry(input=3, output=0, gpu_us=700_000_001, seconds_milli=333))
    used = {"input_tokens": 5, "gpu_us": 1_501, "units": _amounts(seconds_milli=1_501)}
    undone = {"input_tokens": -5, "gpu_us": -1_501, "units": _amounts(seconds_milli=-1_501)}
    first, back = _cost(book, **used), _cost(book, event_type="correction", **undone)
    assert back.parts == tuple((key, -n, -pusd) for key, n, pusd in first.parts)


def _contract(multiplier: str, provider: str | None = None, model: str | None = None,
              **over: Any) -> Contract:  # fmt: skip
    return Contract("acme", Decimal(multiplier), provider, model, **over)


def test_the_most_specific_contract_multiplies_each_part() -> None:
    """Provider and model, then model, then provider, then all usage of the tenant."""
    contracts = (_contract("0.9"), _contract("0.8", "p"), _contract("0.7", None, "m"),
                 _contract("0.6", "p", "m"))  # fmt: skip
    for place, pusd in enumerate((90, 80, 70, 60)):
        book = _book(_entry(input=10, output=10), contracts=contracts[: place + 1])
        rated = _cost(book, input_tokens=10)
        assert (rated.cost_pusd, rated.cost_source) == (pusd, "contract")
    assert _pusd(book, input_tokens=10, tenant_id="other") == 100


def test_a_contract_rounds_each_part_half_even() -> None:
    """2.5 becomes 2 and 7.5 becomes 8: the sum is that of the rounded parts."""
    book = _book(_entry(input=5, output=15), contracts=(_contract("0.5"),))
    rated = _cost(book, input_tokens=1, output_tokens=1)
    assert rated.parts == (("input", 1, 2), ("output", 1, 8))


def test_a_contract_has_its_time() -> None:
    """Its end is excluded; outside of it list prices hold."""
    contract = _contract("0.5", effective_from=NOW, effective_to=NOW + 10)
    book = _book(_entry(input=10, output=10), contracts=(contract,))
    found = [_pusd(book, input_tokens=2, occurred_at=NOW + at) for at in (-1, 0, 9, 10)]
    assert found == [20, 10, 10, 20]


def test_a_contract_knows_a_model_by_either_name() -> None:
    """By the name of the event or by the key of the book's entry."""
    entry = PriceEntry("bedrock/m", "aws.bedrock", (Tier("", 0, {"input": 10, "output": 1}),))
    for name in ("m", "bedrock/m"):
        book = _book(entry, contracts=(_contract("0.5", "aws.bedrock", name),))
        assert _pusd(book, input_tokens=2, provider_name="bedrock") == 10


def test_a_tenants_own_entry_is_final() -> None:
    """It goes before general ones, and no multiplier touches it."""
    book = _book(_entry(input=10, output=10), _entry("acme", input=3, output=3),
                 contracts=(_contract("0.5"),))  # fmt: skip
    rated = _cost(book, input_tokens=2)
    assert (rated.cost_pusd, rated.cost_source) == (6, "contract")
    assert _cost(book, input_tokens=2, tenant_id="other").cost_source == "estimate"


def test_a_contract_does_not_touch_what_the_provider_billed() -> None:
    """The bill is spread by list prices."""
    book = _book(_entry(input=1, output=3), contracts=(_contract("0.5"),))
    rated = _cost(book, input_tokens=1, output_tokens=1, cost_pusd=8, cost_source="provider")
    assert (rated.cost_source, rated.parts) == ("provider", (("input", 1, 2), ("output", 1, 6)))


def test_a_bill_without_any_rate_is_unclassified() -> None:
    """The quantities stay, at no cost; a bill of 0 needs no such part."""
    free = _book(_entry(input=0, output=0))
    for book in (_book(), free):
        billed = {"input_tokens": 3, "cost_source": "provider"}
        assert _cost(book, **billed, cost_pusd=8).parts == (
            ("input", 3, 0), ("unclassified", 1, 8),
        )  # fmt: skip
        assert _cost(book, **billed, cost_pusd=0).parts == (("input", 3, 0),)


def test_a_bill_is_not_hindered_by_a_list_price_beyond_64_bits() -> None:
    """List prices are only weights there."""
    book = _book(_entry(input=10**12, output=3 * 10**12))
    billed = {"cost_pusd": 8, "cost_source": "provider"}
    rated = _cost(book, input_tokens=10**9, output_tokens=10**9, **billed)
    assert [part.cost_pusd for part in rated.parts] == [2, 6]


def _class(key: str, quantity: int, cost_pusd: int) -> dict[str, Any]:
    return {"key": key, "quantity": quantity, "cost_pusd": cost_pusd}


def test_a_correction_that_states_its_cost_is_taken_at_its_word() -> None:
    """Classes as stated, what they leave open is unclassified, book and tokens are not asked."""
    stated = [_class("output", -2, -50), _class("input", -9, -40), _class("soon", 1, 7)]
    rated = _cost(_book(_entry(input=1, output=1)), event_type="correction", cost_pusd=-100,
                  usage_by_class=stated, input_tokens=-9, cost_source="contract",
                  price_book_version="v7")  # fmt: skip
    assert rated == (-100, "contract", "v7", (), (
        ("input", -9, -40), ("output", -2, -50), ("unclassified", 0, -10),
    ))  # fmt: skip


def test_a_correction_may_change_the_price_alone() -> None:
    """Without classes its quantities stay without cost; a cost of 0 leaves nothing open."""
    rated = _cost(_book(), event_type="correction", cost_pusd=-5)
    assert (rated.parts, rated.cost_source) == ((("unclassified", 0, -5),), "estimate")
    moved = [_class("input", 0, -5), _class("unclassified", 0, 5)]
    assert _cost(_book(), event_type="correction", cost_pusd=0, usage_by_class=moved).parts == (
        ("input", 0, -5), ("unclassified", 0, 5),
    )  # fmt: skip


def test_parts_beyond_64_bits_are_an_error() -> None:
    """Also where they cancel out in the sum."""
    book = _book(_entry(input=10**12, output=10**12))
    event = _event(event_type="correction", input_tokens=-(10**9), output_tokens=10**9)
    with pytest.raises(OverflowError):
        cost(book, event)


def test_usage_without_a_price_still_counts_by_class() -> None:
    """Tokens, units and server tools, at no cost."""
    event = _event(input_tokens=9, cache_read_input_tokens=4, units=_amounts(pages=2, other=1),
                   server_tool_requests=_amounts(web_search=1), gpu_us=7)  # fmt: skip
    assert cost(_book(), event) is None
    assert unpriced_parts(event) == (("input", 5, 0), ("cache_read", 4, 0), ("pages", 2, 0),
                                     ("web_search", 1, 0))  # fmt: skip
