"""Import of LiteLLM's model price file (model_prices_and_context_window.json, MIT licence).

It has US dollars per unit, one flat object per model; service tier and context length stand in the
field names (input_cost_per_token_above_200k_tokens_priority). What cannot be represented exactly
is refused or listed, never rounded.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sluice.metering.book_file import MAX_NAME, Fault, PriceBookError
from sluice.metering.json_places import JsonObject, parse
from sluice.metering.prices import PriceBook
from sluice.metering.rates import STANDARD, PriceEntry, Tier
from sluice.money import INT64_MAX, pusd

_TEMPLATE = "sample_spec"
_CLASSES = {
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
}
_FIELD = re.compile(
    r"(?P<base>.+?)(?:_above_(?P<thousands>\d+)k_tokens)?"
    r"(?:_(?P<tier>batches|flex|priority|balanced|ultrafast))?"
)
_PRICE = re.compile(r"cost|pricing|multiplier|provider_specific_entry|free_requests")
_SERVICE_TIERS: Mapping[str | None, str] = {None: STANDARD, "batches": "batch"}
_PROVIDERS = {  # theirs -> OTel's where the two differ
    "azure": "azure.ai.openai", "azure_text": "azure.ai.openai", "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock", "bedrock_converse": "aws.bedrock", "gemini": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai", "mistral": "mistral_ai", "xai": "x_ai",
    "watsonx": "ibm.watsonx.ai", "text-completion-openai": "openai", "cohere_chat": "cohere",
}  # fmt: skip
# xAI bills the long-context price from the threshold on, all others above it.
_INCLUSIVE = frozenset({"xai"})


class NotRepresented(NamedTuple):
    """A field of a loaded entry that the price book cannot express."""

    model: str
    field: str


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
        missed += (NotRepresented(model, name) for name in left_out)
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


def _entry(model: str, fields: Any) -> tuple[PriceEntry, list[str]]:
    """An entry and the names of its fields that it does not express; ValueError says why not."""
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
        only = f" per token or request, only {', '.join(others)}" if others else ""
        raise ValueError(f"no price{only}")
    billed = [name for name in others if "cost" in name or name == "tiered_pricing"]
    if not any(rates) and billed:
        raise ValueError(f"every price per token is 0, billed by {', '.join(billed)}")


def _tiers(fields: Mapping[str, Any], *, inclusive: bool) -> tuple[tuple[Tier, ...], list[str]]:
    rates: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    left_out = []
    for name, value in fields.items():
        if not _PRICE.search(name):
            continue
        place = _place(name, inclusive=inclusive)
        if place is None or value is None:
            left_out.append(name)
        else:
            service_tier, threshold, rate_class = place
            rates[service_tier, threshold][rate_class] = _rate(name, value)
    left_out = [*_cache_hits(fields, left_out, rates), *_without_surcharge(rates)]
    if "tiered_pricing" in left_out and (steps := _steps(fields["tiered_pricing"])) is not None:
        left_out.remove("tiered_pricing")
        for threshold, step in steps.items():
            rates[STANDARD, threshold] |= step
    _drop_plain_reasoning(rates)
    tiers = (Tier(*place, MappingProxyType(found)) for place, found in rates.items() if found)
    return tuple(tiers), left_out


def _place(name: str, *, inclusive: bool = False) -> tuple[str, int, str] | None:
    """Service tier, threshold and class of a field name, or None for other units."""
    match = _FIELD.fullmatch(name)
    if match is None or match["base"] not in _CLASSES:
        return None
    threshold = int(match["thousands"]) * 1000 - inclusive if match["thousands"] else 0
    if not 0 <= threshold <= INT64_MAX:
        return None
    service_tier = _SERVICE_TIERS.get(match["tier"], match["tier"])
    return service_tier, threshold, _CLASSES[match["base"]]


def _rate(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{name}: {value!r} is not a number")  # noqa: TRY004
    try:
        rate = pusd(value)
    except (ValueError, ArithmeticError) as error:
        reason = error if isinstance(error, ValueError) else "out of range"
        raise ValueError(f"{name}: {reason}") from error
    if rate < 0:
        raise ValueError(f"{name}: {value} is negative")
    return rate


def _cache_hits(
    fields: Mapping[str, Any], left_out: list[str], rates: dict[tuple[str, int], dict[str, int]]
) -> Iterator[str]:
    """An older name of the cache read rate counts where it adds or repeats it."""
    for name in left_out:
        if name == "input_cost_per_token_cache_hit" and fields[name] is not None:
            hit = _rate(name, fields[name])
            if rates[STANDARD, 0].setdefault("cache_read", hit) == hit:
                continue
        yield name


def _without_surcharge(rates: dict[tuple[str, int], dict[str, int]]) -> Iterator[str]:
    """A cache write of 0 beside paid input means no surcharge: such tokens cost what input does."""
    for found in rates.values():
        if found.get("cache_write") == 0 and found.get("input"):
            del found["cache_write"]
            yield "cache_creation_input_token_cost = 0"


def _steps(steps: Any) -> dict[int, dict[str, int]] | None:
    """Rates by lower bound of a price table by input tokens; None for tables of other units."""
    found: dict[int, dict[str, int]] = {}
    for step in steps if isinstance(steps, list) else ():
        lower = _lower_bound(step)
        if lower is None or lower in found or not {"range", *_CLASSES}.issuperset(step):
            return None
        found[lower] = {_CLASSES[n]: _rate(n, value) for n, value in step.items() if n != "range"}
    return found if 0 in found else None


def _lower_bound(step: Any) -> int | None:
    bounds = step.get("range") if isinstance(step, JsonObject) else None
    lower = bounds[0] if isinstance(bounds, list) and bounds else None
    if not isinstance(lower, int | Decimal) or not 0 <= lower <= INT64_MAX or lower % 1:
        return None
    return int(lower)


def _drop_plain_reasoning(rates: dict[tuple[str, int], dict[str, int]]) -> None:
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
