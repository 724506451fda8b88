"""What a caller says of an operation, in fields of UsageEvent, checked where it is said.

A fault is better met here than in the dead-letter topic, which would take the event's cost with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sluice.errors import WireError
from sluice.wire import shape
from sluice.wire.schema import schema

# As usage validation has them: of a text in UTF-8, of attributes, of other lists.
MAX_TEXT_BYTES = 256
MAX_ATTRIBUTES = 16
MAX_LIST_ITEMS = 64

_TOKENS = frozenset({
    "input_tokens", "cache_read_input_tokens", "cache_write_input_tokens", "cache_write_by_ttl",
    "tokens_by_modality", "output_tokens", "reasoning_output_tokens", "rejected_prediction_tokens",
})  # fmt: skip
# Fields that nobody hands over, and where they come from.
_OWN = {
    **dict.fromkeys(("event_id", "started_at", "occurred_at", "latency_us"), "measured"),
    **dict.fromkeys(("source", "source_epoch", "source_seq", "end_mark"), "the emitter's"),
    **dict.fromkeys(("tenant_id", "project_id"), "the request's"),
    **dict.fromkeys(("attempt", "attempt_kind"), "counted by retry() and hedge()"),
    **dict.fromkeys(
        ("task_id", "parent_event_id", "agent_name", "workflow_name", "step", "depth"),
        "kept by the task",
    ),
    **dict.fromkeys(("io_read_bytes", "io_write_bytes"), "counted by read() and wrote()"),
    **dict.fromkeys(("net_in_bytes", "net_out_bytes"), "counted by received() and sent()"),
    **dict.fromkeys(("outcome", "slo_outcome", "error_type"), "given to finish()"),
    **dict.fromkeys(("tool_args_hash", "result_hash"), "made from `args` and by result()"),
    "event_type": "given when the operation is opened",
    **dict.fromkeys(
        ("corrects_event_id", "usage_by_class", "original_cost_pusd", "baseline_q50_pusd",
         "baseline_q95_pusd"), "a correction's",
    ),
}  # fmt: skip


def checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value; None says nothing.

    Raises WireError: own_field (not the caller's to give), unencodable (unknown, another type),
    negative_value, text_too_long, too_many_items.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if name in _OWN:
            raise WireError("own_field", f"{name} is {_OWN[name]}, leave it out")
        _check(name, value)
    return given


class Handed:
    """Usage as it arrives in one piece or several, and what was streamed meanwhile."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._streamed: int | None = None

    def take(self, fields: Mapping[str, Any]) -> None:
        """Merge fields, later ones win; token counts are the provider's unless they say whose.

        Raises WireError as `checked` does, and token_subset; nothing is taken then.
        """
        given = checked(fields)
        if "usage_source" not in given and not _TOKENS.isdisjoint(given):
            given["usage_source"] = "provider"
        merged = self._fields | given
        for name, parts in _parts(merged):
            if name in merged and parts > merged[name]:
                raise WireError("token_subset", f"parts of {name}: {parts} > {merged[name]}")
        self._fields = merged

    def streamed(self, tokens: int) -> None:
        """Count output tokens that went by."""
        if tokens < 0:
            raise ValueError(f"tokens are counted from 0 up, not {tokens}")
        self._streamed = (self._streamed or 0) + tokens

    @property
    def streamed_tokens(self) -> int:
        """Output tokens that went by so far."""
        return self._streamed or 0

    def fields(self, *, whole: bool) -> dict[str, Any]:
        """The fields for an operation that ended; `whole`: nothing of its answer is missing.

        A total that never came is at least its parts. What was streamed stands in for a count that
        never came, and outdoes one that came before a stream broke off.
        """
        fields = {"usage_source": "estimated"} | self._fields
        for name, parts in _parts(fields):
            if parts:
                fields[name] = max(parts, fields.get(name, 0))
        output = fields.get("output_tokens")
        if self._streamed is None or (output is not None and (whole or output >= self._streamed)):
            return fields
        return fields | {"output_tokens": self._streamed, "usage_source": "estimated"}


def _parts(fields: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every total and what its parts add up to, smaller totals first."""

    def of(name: str) -> int:
        return int(fields.get(name, 0))

    by_ttl = fields.get("cache_write_by_ttl", ())
    yield "cache_write_input_tokens", sum(amount["value"] for amount in by_ttl)
    yield "input_tokens", of("cache_read_input_tokens") + of("cache_write_input_tokens")
    yield "output_tokens", of("reasoning_output_tokens")
    yield "output_tokens", of("rejected_prediction_tokens")


def _check(name: str, value: Any) -> None:
    fits = _checks().get(name)
    if fits is None:
        raise WireError("unencodable", f"UsageEvent.{name}: no such field")
    try:
        fits(value)
    except shape.ShapeError as error:
        raise WireError("unencodable", f"UsageEvent.{name}{error}") from None
    if isinstance(value, list | tuple):
        if name != "prefix_block_ids":
            _check_list(name, value)
    else:
        _check_value(name, value)


def _check_list(name: str, items: list[Any] | tuple[Any, ...]) -> None:
    most = MAX_ATTRIBUTES if name == "attributes" else MAX_LIST_ITEMS
    if len(items) > most:
        raise WireError("too_many_items", f"{len(items)} in {name}, at most {most}")
    for item in items:
        for value in item.values() if isinstance(item, Mapping) else (item,):
            _check_value(name, value)


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, str):
        size = len(value.encode())
        if size > MAX_TEXT_BYTES:
            raise WireError("text_too_long", f"{name} has {size} bytes, at most {MAX_TEXT_BYTES}")
    elif value < 0:
        raise WireError("negative_value", f"{name} {value}, at least 0")


@cache
def _checks() -> dict[str, shape.Check]:
    return shape.of_fields(schema("UsageEvent"))
