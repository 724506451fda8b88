"""Import of LiteLLM's price file."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sluice.metering.litellm import ImportReport, import_book
from sluice.metering.litellm_fields import PRICE_FIELD, place_of
from sluice.metering.prices import PriceBookError, default_book, subset

_TRACES = Path(os.environ.get("SLUICE_TRACES", Path(__file__).parents[4] / "shared" / "traces"))
_NAME = "litellm-price-book/model_prices_and_context_window-1.109.1.json"
needs_file = pytest.mark.skipif(not (_TRACES / _NAME).exists(), reason="LiteLLM's file is not here")


@cache
def _whole() -> ImportReport:
    return import_book(_TRACES / _NAME)


def _imported(text: str) -> ImportReport:
    return import_book(text.encode())


def _one(**fields: Any) -> ImportReport:
    return _imported(json.dumps({"m": {"litellm_provider": "p"} | fields}))


def _rates(report: ImportReport, service_tier: str = "", input_tokens: int = 0) -> dict[str, int]:
    return report.book.entries[0].rates_pusd(service_tier, input_tokens)


def test_numbers_are_read_exactly() -> None:
    """0.1 is not a binary fraction, yet no digit is lost on the way."""
    report = _imported('{"m": {"input_cost_per_token": 1e-7, "output_cost_per_token": 3e-12}}')
    assert _rates(report) == {"input": 100_000, "output": 3, "reasoning": 3}
    assert report.loaded == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("1.5e-12", "not a whole number of pico-dollars"),
        ("4.1953125e-7", "not a whole number of pico-dollars"),
        ("-1e-6", "negative"),
        ('"1e-6"', "not a number"),
        ("true", "not a number"),
        ("1e9", "beyond 64 bits"),
        ("1e999999", "out of range"),
    ],
)
def test_an_entry_with_an_unusable_rate_is_named(number: str, reason: str) -> None:
    """Whole entries are left out: half a price would be a wrong one."""
    report = _imported(f'{{"m": {{"output_cost_per_token": 1, "input_cost_per_token": {number}}}}}')
    ((model, why),) = report.skipped
    assert (model, report.loaded) == ("m", 0)
    assert "input_cost_per_token" in why
    assert reason in why


def test_tiers_stand_in_the_field_names() -> None:
    """Context length, service tier, both, and cache writes by lifetime."""
    report = _one(
        input_cost_per_token=1e-6, input_cost_per_token_batches=2e-6,
        input_cost_per_token_above_200k_tokens=3e-6,
        input_cost_per_token_above_200k_tokens_priority=4e-6,
        cache_creation_input_token_cost_above_1hr=5e-6,
        cache_creation_input_token_cost_above_1hr_above_200k_tokens=6e-6,
    )  # fmt: skip
    assert report.not_represented == ()
    assert _rates(report) == {"input": 1_000_000, "cache_write_3600": 5_000_000}
    assert _rates(report, "batch")["input"] == 2_000_000
    assert _rates(report, "", 200_001) == {"input": 3_000_000, "cache_write_3600": 6_000_000}
    assert _rates(report, "", 200_000)["input"] == 1_000_000
    assert _rates(report, "priority", 200_001)["input"] == 4_000_000


def test_xai_bills_long_context_from_the_threshold_on() -> None:
    """All other providers bill it above the threshold."""
    report = _one(litellm_provider="xai", input_cost_per_token=1e-6,
                  input_cost_per_token_above_200k_tokens=3e-6)  # fmt: skip
    assert _rates(report, "", 200_000)["input"] == 3_000_000
    assert _rates(report, "", 199_999)["input"] == 1_000_000
    assert report.book.entries[0].provider == "x_ai"


def test_price_tables_by_input_tokens_become_tiers() -> None:
    """Each step is a tier; a table by another unit is listed."""
    table = [
        {"range": [0, 256e3], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
        {"range": [256e3, 1e6], "input_cost_per_token": 3e-6, "output_cost_per_token": 4e-6},
    ]
    report = _one(tiered_pricing=table, input_cost_per_audio_token=5e-6)
    assert report.not_represented == ()
    assert _rates(report, "", 256_000) == {
        "input": 1_000_000, "output": 2_000_000, "reasoning": 2_000_000, "input_audio": 5_000_000,
    }  # fmt: skip
    assert _rates(report, "", 256_001) == {
        "input": 3_000_000, "output": 4_000_000, "reasoning": 4_000_000,
    }  # fmt: skip
    assert report.book.entries[0].tiers[0].rates_pusd["input_audio"] == 5_000_000
    by_results = [{"max_results_range": [0, 25], "input_cost_per_query": 0.005}]
    assert _one(tiered_pricing=by_results).skipped[0][0] == "m"


@pytest.mark.parametrize(
    ("number", "rate"), [("4.0000000000000003e-7", 400_000), ("3.3333333333333335e-5", 33_333_333)]
)
def test_what_arithmetic_left_of_a_price_is_rounded_and_listed(number: str, rate: int) -> None:
    """Noise below a ten-millionth does not cost an entry; the report shows both numbers."""
    report = _imported(f'{{"m": {{"input_cost_per_token": {number}}}}}')
    assert _rates(report) == {"input": rate}
    ((model, field, reason),) = report.not_represented
    assert (model, field) == ("m", "input_cost_per_token")
    assert f"read as {rate} pico-USD" in reason


def test_other_units_are_listed_beside_what_was_loaded() -> None:
    """A reader of the report sees what the book will not bill, and why."""
    report = _one(input_cost_per_token=1e-6, citation_cost_per_token=2e-6, max_tokens=9,
                  regional_processing_uplift_multiplier_eu=1.1)  # fmt: skip
    assert report.not_represented == (
        ("m", "citation_cost_per_token", "no class has this unit"),
        ("m", "regional_processing_uplift_multiplier_eu", "a multiplier by region"),
    )
    assert _rates(report) == {"input": 1_000_000}


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({"mode": "image_generation", "output_cost_per_image": 0.04}, {"images": 40_000_000_000}),
        ({"mode": "image_generation", "input_cost_per_image": 0.04}, {"images": 40_000_000_000}),
        ({"mode": "image_generation", "input_cost_per_image": 0.04, "output_cost_per_image": 0.04},
         {"images": 40_000_000_000}),
        ({"mode": "embedding", "input_cost_per_image": 6e-5, "input_cost_per_token": 1e-7},
         {"input_images": 60_000_000, "input": 100_000}),
        ({"mode": "image_generation", "input_cost_per_pixel": 8.39233e-08,
          "output_cost_per_pixel": 0.0}, {"pixels": 83_923_300_000}),
        ({"mode": "audio_transcription", "input_cost_per_second": 1e-4,
          "output_cost_per_second": 0.0}, {"seconds_milli": 100_000_000}),
        ({"mode": "video_generation", "output_cost_per_second": 0.1,
          "output_cost_per_second_4k": 0.3},
         {"video_seconds_milli": 100_000_000_000, "video_seconds_milli_4k": 300_000_000_000}),
        ({"mode": "ocr", "ocr_cost_per_page": 0.003, "annotation_cost_per_page": 0.005},
         {"pages": 3_000_000_000, "annotated_pages": 5_000_000_000}),
        ({"mode": "rerank", "input_cost_per_token": 0.0, "input_cost_per_query": 0.001},
         {"input": 0, "queries": 1_000_000_000}),
        ({"mode": "audio_speech", "input_cost_per_character": 1.5e-5},
         {"characters": 15_000_000}),
        ({"code_interpreter_cost_per_session": 0.03}, {"code_interpreter": 30_000_000_000}),
        ({"search_context_cost_per_query": {
            "search_context_size_low": 0.005, "search_context_size_medium": 0.008,
            "search_context_size_high": 0.012}, "google_maps_grounding_cost_per_query": 0.025},
         {"web_search": 8_000_000_000, "web_search_low": 5_000_000_000,
          "web_search_high": 12_000_000_000, "google_maps": 25_000_000_000}),
        ({"search_context_cost_per_query": {
            "search_context_size_low": 0.01, "search_context_size_medium": 0.01}},
         {"web_search": 10_000_000_000}),
    ],
)  # fmt: skip
def test_units_become_classes(fields: dict[str, Any], rates: dict[str, int]) -> None:
    """By field and kind of model; the same price under two names is one rate."""
    report = _one(**fields)
    assert report.not_represented == ()
    assert _rates(report) == rates


def test_batch_prices_of_units_are_tiers() -> None:
    """As those of tokens."""
    report = _one(mode="ocr", ocr_cost_per_page=0.004, ocr_cost_per_page_batches=0.002)
    assert _rates(report, "batch") == {"pages": 2_000_000_000}


@pytest.mark.parametrize(
    ("mode", "fields", "dropped"),
    [
        ("image_generation", {"output_cost_per_image_token": 3e-5, "output_cost_per_image": 0.039},
         "output_cost_per_image"),
        ("audio_transcription", {"input_cost_per_audio_token": 2e-6, "input_cost_per_second": 1e-4},
         "input_cost_per_second"),
        ("embedding", {"input_cost_per_token": 1e-7, "input_cost_per_character": 2.5e-8},
         "input_cost_per_character"),
        ("image_generation", {"output_cost_per_image": 0.025, "output_cost_per_pixel": 2.384e-8},
         "output_cost_per_pixel"),
    ],
)  # fmt: skip
def test_two_measures_of_one_usage_are_not_both_billed(
    mode: str, fields: dict[str, Any], dropped: str
) -> None:
    """Tokens go before other units, images before pixels; the other one is listed."""
    ((_, field, reason),) = _one(mode=mode, **fields).not_represented
    assert field == dropped
    assert reason.startswith("another measure")


def test_contradicting_names_of_one_rate_are_listed() -> None:
    """The first one counts."""
    report = _one(input_cost_per_second=1e-4, cost_per_second=2e-4)
    assert _rates(report) == {"seconds_milli": 100_000_000}
    assert report.not_represented == (
        ("m", "cost_per_second", "another field says 100000000 pico-USD"),
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"guardrail_cost_per_unit": {"wordPolicyUnits": 0.1}}, "only guardrail_cost_per_unit"),
        ({"max_tokens": 7}, "no price"),
        ({"input_cost_per_token": 0.0, "citation_cost_per_token": 0.001}, "citation_cost_per_tok"),
    ],
)
def test_entries_that_would_look_free_are_skipped(fields: dict[str, Any], reason: str) -> None:
    """A model billed by another unit must be unpriced, not free of charge."""
    ((_, why),) = _one(**fields).skipped
    assert reason in why


def test_free_models_are_loaded_and_listed() -> None:
    """0 may be the truth (self-hosted), so it is kept and shown."""
    report = _one(input_cost_per_token=0, output_cost_per_token=0.0)
    assert (report.loaded, report.zero) == (1, ("m",))


def test_a_cache_write_of_zero_means_no_surcharge() -> None:
    """Written tokens are still input; the report says how it was read."""
    report = _one(input_cost_per_token=1e-6, cache_creation_input_token_cost=0.0)
    assert _rates(report) == {"input": 1_000_000}
    ((_, field, reason),) = report.not_represented
    assert field == "cache_creation_input_token_cost"
    assert "no surcharge" in reason


def test_the_older_name_of_the_cache_read_rate_counts() -> None:
    """Alone or beside an equal one; a contradicting one is listed."""
    old = {"input_cost_per_token": 1e-6, "input_cost_per_token_cache_hit": 1e-7}
    assert _rates(_one(**old))["cache_read"] == 100_000
    assert _one(**old, cache_read_input_token_cost=1e-7).not_represented == ()
    other = _one(**old, cache_read_input_token_cost=2e-7)
    assert _rates(other)["cache_read"] == 200_000
    assert [field for _, field, _ in other.not_represented] == ["input_cost_per_token_cache_hit"]


def test_reasoning_priced_like_output_follows_output_into_its_tiers() -> None:
    """Stated once beside a cheaper batch output, it must not bill batches at the full rate."""
    report = _one(output_cost_per_token=2e-6, output_cost_per_reasoning_token=2e-6,
                  output_cost_per_token_batches=1e-6)  # fmt: skip
    assert _rates(report, "batch")["reasoning"] == 1_000_000
    dearer = _one(output_cost_per_token=2e-6, output_cost_per_reasoning_token=4e-6)
    assert _rates(dearer)["reasoning"] == 4_000_000


@pytest.mark.parametrize(
    ("theirs", "otel"),
    [("vertex_ai-anthropic_models", "gcp.vertex_ai"), ("bedrock_converse", "aws.bedrock"),
     ("azure", "azure.ai.openai"), ("openai", "openai"), ("groq", "groq")],
)  # fmt: skip
def test_providers_get_otels_names(theirs: str, otel: str) -> None:
    """Events carry those."""
    report = _one(litellm_provider=theirs, input_cost_per_token=1e-6)
    assert report.book.entries[0].provider == otel


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"m": {}, "m": {}}', '{"m": Infinity}', '{"m": 1e9999999999999999999}', "\udcff"],
)
def test_a_file_that_is_no_price_file_is_refused(text: str) -> None:
    """As a whole, with a PriceBookError."""
    with pytest.raises(PriceBookError):
        import_book(text.encode(errors="surrogateescape"))


@needs_file
def test_every_entry_of_the_real_file_is_loaded_or_named() -> None:
    """4,552 models and a template; nothing is lost on the way."""
    report = _whole()
    names = set(json.loads((_TRACES / _NAME).read_text())) - {"sample_spec"}
    loaded = {entry.model for entry in report.book.entries}
    skipped = {name for name, _ in report.skipped}
    assert loaded | skipped == names
    assert not loaded & skipped
    assert (report.loaded, len(report.skipped), len(names)) == (4450, 102, 4552)
    assert all(reason for _, reason in report.skipped)


@needs_file
def test_every_price_field_of_the_real_file_is_a_rate_or_listed() -> None:
    """Of 4,450 entries each field has a rate in the book, or is listed with the reason."""
    report = _whole()
    listed = {(model, field) for model, field, _ in report.not_represented}
    assert all(reason for _, _, reason in report.not_represented)
    data = json.loads((_TRACES / _NAME).read_text())
    for entry in report.book.entries:
        stated = [name for name in data[entry.model] if PRICE_FIELD.search(name)]
        unlisted = [name for name in stated if (entry.model, name) not in listed]
        places = [place_of(name, data[entry.model]) for name in unlisted]
        expressed = {rate_class for tier in entry.tiers for rate_class in tier.rates_pusd}
        classes = {place.rate_class for place in places if place is not None}
        # Reasoning at the price of output is the default and needs no rate.
        assert classes - expressed <= {"reasoning"}, entry.model
        tables = {name for name, place in zip(unlisted, places, strict=True) if place is None}
        assert tables <= _OTHERWISE_READ, entry.model


# Fields that are no single rate, yet read.
_OTHERWISE_READ = {"tiered_pricing", "search_context_cost_per_query",
                   "input_cost_per_token_cache_hit"}  # fmt: skip


@needs_file
@pytest.mark.parametrize(
    ("model", "service_tier", "input_tokens", "rates"),
    [
        ("gpt-4o", "", 0, {"input": 2_500_000, "cache_read": 1_250_000, "output": 10_000_000,
                           "reasoning": 10_000_000}),
        ("gpt-5", "flex", 0, {"input": 625_000, "cache_read": 62_500, "output": 5_000_000,
                              "reasoning": 5_000_000, "web_search": 10_000_000_000}),
        ("claude-sonnet-4-5", "", 0, {
            "input": 3_000_000, "cache_read": 300_000, "cache_write": 3_750_000,
            "cache_write_3600": 6_000_000, "output": 15_000_000,
            "reasoning": 15_000_000, "web_search": 10_000_000_000}),
        ("gemini-2.5-pro", "", 200_001, {
            "input": 2_500_000, "cache_read": 250_000, "cache_write": 250_000,
            "output": 15_000_000, "reasoning": 15_000_000, "web_search": 35_000_000_000,
            "google_maps": 25_000_000_000}),
        ("replicate/meta/llama-2-7b-chat", "", 0,
         {"input": 50_000, "output": 250_000, "reasoning": 250_000}),
        ("text-embedding-3-small", "batch", 0, {"input": 10_000, "output": 0, "reasoning": 0}),
    ],
)  # fmt: skip
def test_known_models_of_the_real_file(
    model: str, service_tier: str, input_tokens: int, rates: dict[str, int]
) -> None:
    """Rates computed by hand from the published US dollars per million tokens."""
    entry = _whole().book.find(model)
    assert entry is not None
    assert entry.rates_pusd(service_tier, input_tokens) == rates


@needs_file
def test_the_packaged_book_is_a_subset_of_the_real_file() -> None:
    """It can be made again, byte by byte."""
    models = [entry.model for entry in default_book().entries]
    assert subset(_whole().book, models, "default") == default_book()
    assert subset(_whole().book, models, "default").to_json() == default_book().to_json()
