"""Import of LiteLLM's model price file (model_prices_and_context_window.json, MIT licence).

It has US dollars per unit, one flat object per model; service tier and context length stand in the
field names (input_cost_per_token_above_200k_tokens_priority). What cannot be represented is listed
with the reason, as an entry that was skipped or as a field of one that was loaded.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sluice.metering.book_file import MAX_NAME, Fault, PriceBookError
from sluice.metering.classes import TOKEN_CLASSES, UNIT_CLASSES
from sluice.metering.json_places import JsonObject, parse
from sluice.metering.litellm_fields import (
    PRICE_FIELD,
    SEARCH_FIELD,
    SEARCH_SIZES,
    TOKEN_FIELDS,
    Place,
    Rate,
    place_of,
    rate_of,
    reason_of,
)
from sluice.metering.prices import PriceBook
from sluice.metering.rates import STANDARD, PriceEntry, Tier
from sluice.money import INT64_MAX

_TEMPLATE = "sample_spec"
_WRITES = "cache_creation_input_token_cost"
_PROVIDERS = {  # theirs -> OTel's where the two differ
    "azure": "azure.ai.openai", "azure_text": "azure.ai.openai", "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock", "bedrock_converse": "aws.bedrock", "gemini": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai", "mistral": "mistral_ai", "xai": "x_ai",
    "watsonx": "ibm.watsonx.ai", "text-completion-openai": "openai", "cohere_chat": "cohere",
}  # fmt: skip
# xAI bills the long-context price from the threshold on, all others above it.
_INCLUSIVE = frozenset({"xai"})


# Units that are another measure of what token rates bill already; both would bill it twice.
_ALSO_INPUT_TOKENS = frozenset({
    "characters", "input_images", "input_audio_seconds_milli", "input_video_seconds_milli",
    "seconds_milli", "pages", "annotated_pages",
})  # fmt: skip
_ALSO_OUTPUT_TOKENS = frozenset({
    "output_characters", "pixels", "seconds_milli",
    *(name for name in UNIT_CLASSES if name.startswith(("images", "video_seconds"))),
})  # fmt: skip
# The tokens of an embedding are those of its text.
_BESIDE_TEXT = frozenset({"input_images", "input_audio_seconds_milli", "input_video_seconds_milli"})

_Rates = dict[tuple[str, int], dict[str, int]]


class NotRepresented(NamedTuple):
    """A field of a loaded entry that the price book cannot express, or not exactly, and why."""

    model: str
    field: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """A book, and by name everything that did not make it into the book.

    `zero` lists entries loaded with no rate above 0: free offers and self-hosted models, which cost
    something elsewhere.
    """

    book: PriceBook
    loaded: int
    skipped: tuple[tuple[str, str], ...]
    not_represented: tuple[NotRepresented, ...]
    zero: tuple[str, ...]


def import_book(
    source: Path | bytes, book_id: str = "litellm", licence: str = "MIT"
) -> ImportReport:
    """Convert a price file, given as a path or as its bytes.

    Raises PriceBookError where the file as a whole is not a LiteLLM price file.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    entries: list[PriceEntry] = []
    skipped: list[tuple[str, str]] = []
    missed: list[NotRepresented] = []
    for model, fields in _models(data):
        try:
            entry, left_out = _entry(model, fields)
        except ValueError as error:
            skipped.append((model, str(error)))
            continue
        entries.append(entry)
        missed += (NotRepresented(model, *why) for why in left_out.items())
    digest = hashlib.sha256(data).hexdigest()
    origin = f"BerriAI/litellm model_prices_and_context_window.json, SHA-256 {digest}"
    book = PriceBook(book_id, origin, licence, tuple(entries))
    zero = tuple(e.model for e in entries if not any(any(t.rates_pusd.values()) for t in e.tiers))
    return ImportReport(book, len(entries), tuple(skipped), tuple(missed), zero)


def _models(data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        models = parse(data.decode())
    except (ValueError, RecursionError) as error:
        fault = Fault(getattr(error, "lineno", 0), "", f"this is not JSON ({error})")
        raise PriceBookError([fault]) from error
    if not isinstance(models, JsonObject):
        raise PriceBookError([Fault(0, "", "a LiteLLM price file is an object keyed by model")])
    if models.repeated:
        raise PriceBookError(Fault(0, name, "this model stands twice") for name in models.repeated)
    return ((model, fields) for model, fields in models.items() if model != _TEMPLATE)


def _entry(model: str, fields: Any) -> tuple[PriceEntry, dict[str, str]]:
    """An entry, and why its other fields are not expressed; ValueError says why there is none."""
    if not 0 < len(model) <= MAX_NAME:
        raise ValueError(f"the model key has not 1 to {MAX_NAME} characters")
    if not isinstance(fields, JsonObject) or fields.repeated:
        raise ValueError("not an object with each name once")
    provider = fields.get("litellm_provider")
    if provider is not None and not (isinstance(provider, str) and 0 < len(provider) <= MAX_NAME):
        raise ValueError(f"litellm_provider is not a text of 1 to {MAX_NAME} characters")
    tiers, left_out = _tiers(fields, inclusive=provider in _INCLUSIVE)
    _check_priced(tiers, [name for name in left_out if fields.get(name)])
    return PriceEntry(model, otel_provider(provider), tiers), left_out


def _check_priced(tiers: Iterable[Tier], others: list[str]) -> None:
    rates = [rate for tier in tiers for rate in tier.rates_pusd.values()]
    if not rates:
        only = f" of a class, only {', '.join(others)}" if others else ""
        raise ValueError(f"no price{only}")
    billed = [name for name in others if "cost" in name or name == "tiered_pricing"]
    if not any(rates) and billed:
        raise ValueError(f"every rate is 0, billed by {', '.join(billed)}")


def _tiers(
    fields: Mapping[str, Any], *, inclusive: bool
) -> tuple[tuple[Tier, ...], dict[str, str]]:
    rates: _Rates = defaultdict(dict)
    left_out: dict[str, str] = {}
    for name, value in fields.items():
        if not PRICE_FIELD.search(name):
            continue
        place = place_of(name, fields, inclusive=inclusive)
        if place is None or value is None:
            left_out[name] = "null" if value is None else reason_of(name)
        elif remark := _put(rates, place, rate_of(name, value, place.rate_class)):
            left_out[name] = remark
    _take_cache_hits(fields, rates, left_out)
    _take_searches(fields, rates, left_out)
    _take_steps(fields, rates, left_out)
    _drop_free_writes(rates, left_out)
    _drop_other_measures(fields, rates, left_out)
    _drop_plain_reasoning(rates)
    tiers = (Tier(*place, MappingProxyType(found)) for place, found in rates.items() if found)
    return tuple(tiers), left_out


def _put(rates: _Rates, place: Place, rate: Rate) -> str | None:
    """Set a rate; a 0 or the same rate under another name adds nothing. Returns a remark."""
    found = rates[place[:2]]
    there = found.get(place.rate_class)
    if there and rate.rate_pusd not in (0, there):
        return f"another field says {there} pico-USD"
    found[place.rate_class] = there or rate.rate_pusd
    return rate.remark


def _take_cache_hits(fields: Mapping[str, Any], rates: _Rates, left_out: dict[str, str]) -> None:
    """An older name of the cache read rate counts where it adds or repeats it."""
    name = "input_cost_per_token_cache_hit"
    if fields.get(name) is None:
        return
    hit = rate_of(name, fields[name], "cache_read")
    if rates[STANDARD, 0].setdefault("cache_read", hit.rate_pusd) == hit.rate_pusd:
        del left_out[name]


def _take_searches(fields: Mapping[str, Any], rates: _Rates, left_out: dict[str, str]) -> None:
    """Searches by their amount of context; only the medium size where all cost the same."""
    sizes = fields.get(SEARCH_FIELD)
    if not isinstance(sizes, JsonObject) or not SEARCH_SIZES.keys() >= sizes.keys():
        return
    read = {SEARCH_SIZES[size]: rate_of(SEARCH_FIELD, value, SEARCH_SIZES[size])
            for size, value in sizes.items()}  # fmt: skip
    found = {name: rate.rate_pusd for name, rate in read.items()}
    if "web_search" in found:
        found = {name: rate for name, rate in found.items()
                 if name == "web_search" or rate != found["web_search"]}  # fmt: skip
    rates[STANDARD, 0] |= found
    del left_out[SEARCH_FIELD]
    if remarks := [rate.remark for rate in read.values() if rate.remark]:
        left_out[SEARCH_FIELD] = remarks[0]


def _take_steps(fields: Mapping[str, Any], rates: _Rates, left_out: dict[str, str]) -> None:
    """A price table by input tokens becomes tiers; tables of other units stay listed."""
    steps = fields.get("tiered_pricing")
    found: _Rates = {}
    for step in steps if isinstance(steps, list) else ():
        lower = _lower_bound(step)
        names = set(step) - {"range"} if lower is not None else set()
        if lower is None or (STANDARD, lower) in found or not TOKEN_FIELDS.keys() >= names:
            return
        read = {name: rate_of(name, step[name], TOKEN_FIELDS[name]) for name in step
                if name in names}  # fmt: skip
        found[STANDARD, lower] = {TOKEN_FIELDS[name]: rate.rate_pusd for name, rate in read.items()}
        left_out |= {f"tiered_pricing {name} from {lower}": rate.remark
                     for name, rate in read.items() if rate.remark}  # fmt: skip
    if (STANDARD, 0) in found:
        del left_out["tiered_pricing"]
        for place, step_rates in found.items():
            rates[place] |= step_rates


def _drop_free_writes(rates: _Rates, left_out: dict[str, str]) -> None:
    """A cache write of 0 beside paid input means no surcharge: such tokens cost what input does."""
    for found in rates.values():
        if found.get("cache_write") == 0 and found.get("input"):
            del found["cache_write"]
            left_out[_WRITES] = "0 read as no surcharge on input"


def _drop_other_measures(
    fields: Mapping[str, Any], rates: _Rates, left_out: dict[str, str]
) -> None:
    stated = {name for found in rates.values() for name, rate in found.items() if rate}
    tokens = {name for name in stated if name in TOKEN_CLASSES}
    incoming = {name for name in tokens if name.startswith(("input", "cache"))}
    also = _ALSO_INPUT_TOKENS if incoming else frozenset()
    if fields.get("mode") == "embedding":
        also -= _BESIDE_TEXT
    also |= _ALSO_OUTPUT_TOKENS if tokens - incoming else frozenset()
    reasons = dict.fromkeys(also, "another measure of what the token rates bill")
    if "images" in stated:
        reasons.setdefault("pixels", "another measure of what the rate per image bills")
    for name in fields:
        place = place_of(name, fields) if PRICE_FIELD.search(name) else None
        if place is not None and place.rate_class in reasons:
            left_out[name] = reasons[place.rate_class]
    for found in rates.values():
        for rate_class in reasons.keys() & found.keys():
            del found[rate_class]


def _lower_bound(step: Any) -> int | None:
    bounds = step.get("range") if isinstance(step, JsonObject) else None
    lower = bounds[0] if isinstance(bounds, list) and bounds else None
    if not isinstance(lower, int | Decimal) or not 0 <= lower <= INT64_MAX or lower % 1:
        return None
    return int(lower)


def _drop_plain_reasoning(rates: _Rates) -> None:
    """Reasoning priced like output is the default; kept, it would hide the tiers' output rates."""
    stating = [found for found in rates.values() if "reasoning" in found]
    if all(found["reasoning"] == found.get("output") for found in stating):
        for found in stating:
            del found["reasoning"]


def otel_provider(name: str | None) -> str | None:
    """OTel's name of a provider that LiteLLM names; LiteLLM's where OTel has none."""
    if name is None:
        return None
    head = "vertex_ai" if name.startswith("vertex_ai-") else name
    return _PROVIDERS.get(head, head)
