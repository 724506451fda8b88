"""The packaged baseline: what requests of a length normally cost, until enough was measured.

It knows tokens, not money: median and 95th percentile of input and output tokens per class of input
length, priced at the rates of the event's own model. Taken from 26,766 requests: the Azure LLM
inference trace 2023 (CC-BY 4.0, Patel et al., ISCA 2024), Mooncake (Apache-2.0), the VTC arena
trace (Apache-2.0), tau-bench airline (MIT) and 10,000 samples of ServeGen's reasoning clients
(Apache-2.0). An event labelled by it is counted as `packaged`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sluice.metering.cohorts import HOUR_US, size_class
from sluice.metering.prices import PriceBook
from sluice.metering.quantities import REQUEST_TYPES
from sluice.metering.rating import cost

# 200 airline tasks of tau-bench: p95 cost of a task over p95 cost of one of its calls.
TASK_CALLS = 15
# Median input_tokens of the same agent's calls; outside of tasks no length is known to be usual.
TASK_INPUT_TOKENS = 2_327
_MEMORY = 10_000


class _Lengths(NamedTuple):
    input_q50: int
    input_q95: int
    output_q50: int
    output_q95: int


_LENGTHS: Mapping[str, _Lengths] = MappingProxyType({
    "1k": _Lengths(152, 853, 421, 4_403),
    "4k": _Lengths(2_015, 3_738, 21, 609),
    "16k": _Lengths(6_640, 15_488, 35, 1_118),
    "64k": _Lengths(26_621, 54_647, 20, 1_083),
    "256k": _Lengths(76_322, 191_374, 10, 188),
    # No trace has longer inputs: four times the class below.
    "max": _Lengths(305_288, 765_496, 10, 188),
})  # fmt: skip

_remembered: dict[tuple[Any, ...], tuple[int, int] | None] = {}


def thresholds(event: Mapping[str, Any], book: PriceBook | None) -> tuple[int, int] | None:
    """Median and 95th percentile in pico-USD for an event's model and length; None without price.

    Prices are those in force when the hour of `occurred_at` began. A pure function of its
    arguments: what is remembered between calls only saves time.
    """
    if book is None or event["event_type"] not in REQUEST_TYPES:
        return None
    size = size_class(event["input_tokens"])
    hour = event["occurred_at"] - event["occurred_at"] % HOUR_US
    key = (
        book.version, hour, event["event_type"], event["provider_name"], event["request_model"],
        event["response_model"], event["service_tier"], event["tenant_id"], size,
    )  # fmt: skip
    if key not in _remembered:
        if len(_remembered) >= _MEMORY:
            _remembered.clear()
        _remembered[key] = _priced({**event, "occurred_at": hour}, book, _LENGTHS[size])
    return _remembered[key]


def _priced(event: Mapping[str, Any], book: PriceBook, lengths: _Lengths) -> tuple[int, int] | None:
    embedding = event["event_type"] == "embedding"
    found = []
    for tokens, output in ((lengths.input_q50, lengths.output_q50),
                           (lengths.input_q95, lengths.output_q95)):  # fmt: skip
        typical = {**event, **_PLAIN, "input_tokens": tokens}
        rated = cost(book, typical | {"output_tokens": 0 if embedding else output})
        if rated is None:
            return None
        found.append(rated.cost_pusd)
    return found[0], max(found)


_PLAIN: Mapping[str, Any] = {
    "cost_pusd": None, "cost_source": None, "outcome": "ok",
    "cache_read_input_tokens": 0, "cache_write_input_tokens": 0, "cache_write_by_ttl": [],
    "tokens_by_modality": [], "server_tool_requests": [], "units": [], "gpu_us": None,
    "kv_byte_ms": None, "reasoning_output_tokens": 0, "rejected_prediction_tokens": 0,
}  # fmt: skip
