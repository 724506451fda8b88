"""Usage in OpenAI's words, which many providers and engines speak, each a little differently.

The input count includes the cache. Variants read here: DeepSeek (prompt_cache_hit_tokens and
prompt_cache_miss_tokens), Moonshot (cached_tokens beside the counts), LiteLLM (Anthropic's cache
names), xAI (reasoning beside the completion, which its total_tokens shows), OpenRouter and xAI
(the bill).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sluice.metering.adapters.reading import (
    AdapterError,
    Amount,
    agreed,
    amount,
    needed,
    scaled,
    section,
)
from sluice.metering.adapters.tokens import (
    Across,
    TokenCounts,
    by_modality,
    by_ttl,
    check_sum,
    disjoint,
)
from sluice.money import PUSD_PER_USD

_PUSD_PER_TICK = 100  # xAI: 10^10 ticks are a US dollar


class Words(NamedTuple):
    """Names of the two totals and of the objects that break them down."""

    input: str
    output: str
    input_details: str
    output_details: str


CHAT = Words("prompt_tokens", "completion_tokens", "prompt_tokens_details",
             "completion_tokens_details")  # fmt: skip
RESPONSES = Words("input_tokens", "output_tokens", "input_tokens_details",
                  "output_tokens_details")  # fmt: skip


def usage_counts(usage: Mapping[str, Any], words: Words = CHAT, *,
                 generates: bool = True) -> TokenCounts | None:  # fmt: skip
    """Classes of a usage object, None where it is empty; an embedding generates nothing.

    Raises AdapterError where counts are missing, of another type or at odds with each other.
    """
    if not usage:
        return None
    given, made = section(usage, words.input_details), section(usage, words.output_details)
    total = needed(usage, words.input)
    reasoning = agreed("reasoning_tokens", [amount(made, "reasoning_tokens")])
    write = _written(usage, given)
    return disjoint(
        total=total,
        uncached=amount(usage, "prompt_cache_miss_tokens"),
        read=_read(usage, given),
        write=write,
        output=_output(usage, words, total, reasoning, generates=generates),
        reasoning=reasoning,
        across=Across(
            write_by_ttl=by_ttl(write, _lifetimes(usage, given)),
            input_by_modality=by_modality(given),
            read_by_modality=by_modality(section(given, "cached_tokens_details")),
            output_by_modality=by_modality(made),
            rejected_prediction=amount(made, "rejected_prediction_tokens"),
        ),
    )


def bill(usage: Mapping[str, Any], provider_name: str) -> dict[str, Any]:
    """Cost fields where the provider states in the usage what it charges, else nothing."""
    if provider_name in {"x_ai", "xai"} and (ticks := amount(usage, "cost_in_usd_ticks")):
        return {"cost_pusd": ticks.value * _PUSD_PER_TICK, "cost_source": "provider"}
    if provider_name == "openrouter":
        charged = scaled(usage, "cost", PUSD_PER_USD)
        return {} if charged is None else {"cost_pusd": charged, "cost_source": "provider"}
    return {}


def _read(usage: Mapping[str, Any], details: Mapping[str, Any]) -> Amount:
    return agreed("cached_tokens", [
        amount(details, "cached_tokens"), amount(usage, "prompt_cache_hit_tokens"),
        amount(usage, "cached_tokens"), amount(usage, "cache_read_input_tokens"),
    ])  # fmt: skip


def _written(usage: Mapping[str, Any], details: Mapping[str, Any]) -> Amount:
    return agreed("cache_write_tokens", [
        amount(details, "cache_write_tokens"), amount(details, "cache_creation_tokens"),
        amount(usage, "cache_creation_input_tokens"),
    ])  # fmt: skip


def _lifetimes(usage: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
    return (
        section(details, "cache_write_tokens_details")
        or section(details, "cache_creation_token_details")
        or section(usage, "cache_creation")
    )


def _output(usage: Mapping[str, Any], words: Words, given: Amount, reasoning: Amount, *,
            generates: bool) -> Amount:  # fmt: skip
    """Output with its reasoning, which total_tokens places inside or beside the stated count."""
    made = needed(usage, words.output) if generates else agreed(
        words.output, [amount(usage, words.output)]
    )  # fmt: skip
    total = amount(usage, "total_tokens")
    if total is None or total.value == given.value + made.value:
        return made
    if reasoning.value:
        try:
            check_sum(total, given, made, reasoning)
        except AdapterError as error:
            raise AdapterError(
                "sum_mismatch", f"{error.detail}, nor is it {given} + {made}"
            ) from error
        return Amount(f"{made.name} + {reasoning.name}", made.value + reasoning.value)
    check_sum(total, given, made)
    return made
