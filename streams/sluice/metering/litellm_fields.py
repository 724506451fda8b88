"""What the price fields of LiteLLM's file mean: tier, context length, class and rate of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from sluice.metering.rates import STANDARD
from sluice.money import INT64_MAX, PUSD_PER_USD

PRICE_FIELD = re.compile(r"cost|pricing|multiplier|provider_specific_entry|free_requests")

TOKEN_FIELDS: Mapping[str, str] = MappingProxyType({
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_request": "request",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_3600",
    "cache_creation_input_token_cost_above_12hr": "cache_write_43200",
    "input_cost_per_audio_token": "input_audio",
    "input_cost_per_image_token": "input_image",
    "input_cost_per_video_token": "input_video",
    "output_cost_per_audio_token": "output_audio",
    "output_cost_per_image_token": "output_image",
    "output_cost_per_video_token": "output_video",
    "cache_read_input_audio_token_cost": "cache_read_audio",
    "cache_read_input_image_token_cost": "cache_read_image",
    "cache_creation_input_audio_token_cost": "cache_write_audio",
})  # fmt: skip
_UNIT_FIELDS = {
    "output_cost_per_image": "images",
    "output_cost_per_image_0.5K": "images_512",
    "output_cost_per_image_512": "images_512",
    "output_cost_per_image_1K": "images_1k",
    "output_cost_per_image_1024": "images_1k",
    "output_cost_per_image_2K": "images_2k",
    "output_cost_per_image_4K": "images_4k",
    "input_cost_per_image": "input_images",
    # The pixels asked for, whatever the name says.
    "input_cost_per_pixel": "pixels",
    "output_cost_per_pixel": "pixels",
    "input_cost_per_second": "seconds_milli",
    "output_cost_per_second": "seconds_milli",
    "cost_per_second": "seconds_milli",
    "input_cost_per_audio_per_second": "input_audio_seconds_milli",
    "input_cost_per_video_per_second": "input_video_seconds_milli",
    "output_cost_per_video_per_second": "video_seconds_milli",
    **{f"output_cost_per_second_{resolution}": f"video_seconds_milli_{resolution}"
       for resolution in ("480p", "720p", "768p", "1080p", "2k", "4k")},
    "input_cost_per_character": "characters",
    "output_cost_per_character": "output_characters",
    "ocr_cost_per_page": "pages",
    "annotation_cost_per_page": "annotated_pages",
    "ocr_cost_per_credit": "credits",
    "input_cost_per_query": "queries",
    "input_cost_per_text_message": "messages",
    "code_interpreter_cost_per_session": "code_interpreter",
    "google_maps_grounding_cost_per_query": "google_maps",
}  # fmt: skip
# A search without a stated amount of context is billed as a medium one, like LiteLLM does.
SEARCH_FIELD = "search_context_cost_per_query"
SEARCH_SIZES: Mapping[str, str] = MappingProxyType({
    "search_context_size_medium": "web_search",
    "search_context_size_low": "web_search_low",
    "search_context_size_high": "web_search_high",
})  # fmt: skip

_REASONS = (
    (re.compile(r"_dbu_"), "not in US dollars"),
    (re.compile(r"multiplier"), "a multiplier by region"),
    (re.compile(r"free_requests"), "an amount that is free"),
    (re.compile(r"off_peak"), "a price by time of day"),
    (re.compile(r"s_interval"), "a price by length of the video"),
    (re.compile(r"tiered_pricing"), "a price table by something else than input tokens"),
    (re.compile(r"provider_specific_entry"), "no price of a class"),
)
_FIELD = re.compile(
    r"(?P<base>.+?)(?:_above_(?P<thousands>\d+)k_tokens)?"
    r"(?:_(?P<tier>batches|flex|priority|balanced|ultrafast))?"
)
_SERVICE_TIERS: Mapping[str | None, str] = {None: STANDARD, "batches": "batch"}
_IMAGE_MODES = frozenset({"image_generation", "image_edit"})
# For how many of theirs our rate stands, where that is not one.
_SCALE = {"pixels": 1_000_000}
# Of a million dollars ten cents: what conversions to binary and to seconds leave behind is less.
_NEGLIGIBLE = Decimal("1e-7")
_EXACT = Context(prec=60)


class Place(NamedTuple):
    """Where in an entry the rate of a field stands."""

    service_tier: str
    above_input_tokens: int
    rate_class: str


class Rate(NamedTuple):
    """A rate in pico-USD, and how it was read where the stated one is no whole number."""

    rate_pusd: int
    remark: str | None


def place_of(name: str, fields: Mapping[str, Any], *, inclusive: bool = False) -> Place | None:
    """Place of a field, or None for what the book has no class for."""
    match = _FIELD.fullmatch(name)
    if match is None:
        return None
    rate_class = TOKEN_FIELDS.get(match["base"]) or _unit_class(match["base"], fields)
    threshold = int(match["thousands"]) * 1000 - inclusive if match["thousands"] else 0
    if rate_class is None or not 0 <= threshold <= INT64_MAX:
        return None
    return Place(_SERVICE_TIERS.get(match["tier"], match["tier"]), threshold, rate_class)


def rate_of(name: str, value: Any, rate_class: str) -> Rate:
    """The rate of a class from US dollars per unit.

    A number that is a whole one of pico-USD but for a ten-millionth is what binary or per-second
    arithmetic left of a price; it is rounded, and the remark says so. Raises ValueError for what is
    no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{name}: {value!r} is not a number")  # noqa: TRY004
    try:
        scaled = _EXACT.multiply(Decimal(value), Decimal(PUSD_PER_USD * _SCALE.get(rate_class, 1)))
    except ArithmeticError as error:
        raise ValueError(f"{name}: out of range") from error
    if scaled < 0:
        raise ValueError(f"{name}: {value} is negative")
    if scaled > INT64_MAX:
        raise ValueError(f"{name}: {value} USD is beyond 64 bits of pico-dollars")
    whole = scaled.to_integral_value()
    if abs(scaled - whole) > scaled * _NEGLIGIBLE:
        raise ValueError(f"{name}: {value} USD is not a whole number of pico-dollars")
    remark = None if scaled == whole else f"{value} USD read as {whole} pico-USD"
    return Rate(int(whole), remark)


def reason_of(name: str) -> str:
    """Why a field has no place in the book."""
    return next((why for known, why in _REASONS if known.search(name)), "no class has this unit")


def _unit_class(base: str, fields: Mapping[str, Any]) -> str | None:
    mode = fields.get("mode")
    if base == "output_cost_per_second" and mode == "video_generation":
        return "video_seconds_milli"
    if base == "input_cost_per_image" and mode in _IMAGE_MODES:
        generated = fields.get("output_cost_per_image")
        return "images" if generated in (None, fields.get(base)) else "input_images"
    return _UNIT_FIELDS.get(base)
