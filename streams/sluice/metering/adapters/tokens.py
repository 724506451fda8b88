"""Disjoint token classes from what a provider states, inclusive or exclusive of its caches.

Two rules decide everything: parts are at most their whole, and where the provider states both a
sum and its parts they agree. Counts that break a rule are refused with their names, never clamped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.metering.adapters.reading import (
    AdapterError,
    Amount,
    amount,
    quantities,
    section,
)

MODALITIES = ("audio", "image", "video")
# ephemeral_5m_input_tokens (Anthropic), ttl_30m_tokens (OpenAI)
_TTL = re.compile(r"(?:ephemeral|ttl)_(\d{1,6})([smhd])_(?:input_)?tokens")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Disjoint classes of one call: input = uncached + read + written, output = text + reasoning.

    Beside them what lies across: writes by lifetime (key = seconds), tokens by modality, and the
    rejected part of a predicted output.
    """

    input_uncached: int
    cache_read: int = 0
    cache_write: int = 0
    output_text: int = 0
    reasoning: int = 0
    rejected_prediction: int = 0
    write_by_ttl: tuple[tuple[str, int], ...] = ()
    by_modality: tuple[tuple[str, int], ...] = ()

    def fields(self) -> dict[str, Any]:
        """The token fields of a UsageEvent."""
        return {
            "input_tokens": self.input_uncached + self.cache_read + self.cache_write,
            "cache_read_input_tokens": self.cache_read,
            "cache_write_input_tokens": self.cache_write,
            "cache_write_by_ttl": quantities(self.write_by_ttl),
            "output_tokens": self.output_text + self.reasoning,
            "reasoning_output_tokens": self.reasoning,
            "rejected_prediction_tokens": self.rejected_prediction,
            "tokens_by_modality": quantities(self.by_modality),
        }


class Across(NamedTuple):
    """Counts that lie across the classes: lifetimes of cache writes, modalities."""

    write_by_ttl: tuple[tuple[str, Amount], ...] = ()
    input_by_modality: tuple[tuple[str, Amount], ...] = ()
    read_by_modality: tuple[tuple[str, Amount], ...] = ()
    output_by_modality: tuple[tuple[str, Amount], ...] = ()
    rejected_prediction: Amount | None = None


_NOTHING_ACROSS = Across()


def disjoint(*, total: Amount | None = None, uncached: Amount | None = None, read: Amount,
             write: Amount, output: Amount, reasoning: Amount,
             across: Across = _NOTHING_ACROSS) -> TokenCounts:  # fmt: skip
    """Classes of a call whose provider states the input with its cache, without it, or both.

    Asserts uncached + read + write = total where all are stated, and every part within its whole.
    Raises AdapterError: sum_mismatch, part_above_whole, missing_field.
    """
    if uncached is None:
        if total is None:
            raise AdapterError("missing_field", "the usage has no count of input tokens")
        fresh = rest(total, read, write)
    else:
        fresh = uncached.value
        if total is not None:
            check_sum(total, uncached, read, write)
    whole = total or Amount("input", fresh + read.value + write.value)
    _check_across(across, whole, read, write, output)
    rejected = across.rejected_prediction
    return TokenCounts(
        input_uncached=fresh, cache_read=read.value, cache_write=write.value,
        output_text=rest(output, reasoning), reasoning=reasoning.value,
        rejected_prediction=rejected.value if rejected else 0,
        write_by_ttl=tuple((key, found.value) for key, found in across.write_by_ttl),
        by_modality=tuple(_directed(across)),
    )  # fmt: skip


def rest(whole: Amount, *parts: Amount) -> int:
    """What is left of a whole beside its parts; AdapterError where they exceed it."""
    left = whole.value - sum(part.value for part in parts)
    if left < 0:
        raise AdapterError("part_above_whole", f"{_sum(parts)} exceeds {whole}")
    return left


def check_sum(total: Amount, *parts: Amount) -> None:
    """Raise AdapterError where stated parts do not add up to the stated total."""
    if total.value != sum(part.value for part in parts):
        raise AdapterError("sum_mismatch", f"{total} is not {_sum(parts)}")


def by_modality(details: Mapping[str, Any]) -> tuple[tuple[str, Amount], ...]:
    """Counts named `<modality>_tokens` beside text, which is what remains."""
    found = ((modality, amount(details, f"{modality}_tokens")) for modality in MODALITIES)
    return tuple((modality, stated) for modality, stated in found if stated is not None)


def by_ttl(write: Amount, details: Mapping[str, Any]) -> tuple[tuple[str, Amount], ...]:
    """Cache writes by lifetime in seconds; stated at all, they add up to the writes."""
    known = ((_TTL.fullmatch(name), amount(details, name)) for name in details)
    stated = tuple((match, found) for match, found in known if match and found and found.value)
    if stated:
        check_sum(write, *(found for _, found in stated))
    return tuple((str(int(match[1]) * _SECONDS[match[2]]), found) for match, found in stated)


def server_tools(usage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Calls of tools that the provider ran, stated as `server_tool_use.<tool>_requests`."""
    used = section(usage, "server_tool_use")
    found = (amount(used, name) for name in used if name.endswith("_requests"))
    return quantities((n.name.removesuffix("_requests"), n.value) for n in found if n is not None)


def _check_across(across: Across, total: Amount, read: Amount, write: Amount,
                  output: Amount) -> None:  # fmt: skip
    for whole, parts in (
        (total, across.input_by_modality), (read, across.read_by_modality),
        (write, across.write_by_ttl), (output, across.output_by_modality),
    ):  # fmt: skip
        rest(whole, *(part for _, part in parts))
    if across.rejected_prediction is not None:
        rest(output, across.rejected_prediction)


def _directed(across: Across) -> Iterable[tuple[str, int]]:
    for direction, parts in (
        ("input", across.input_by_modality), ("cache_read", across.read_by_modality),
        ("output", across.output_by_modality),
    ):  # fmt: skip
        yield from ((f"{direction}.{modality}", found.value) for modality, found in parts)


def _sum(parts: Iterable[Amount]) -> str:
    return " + ".join(map(str, parts))
