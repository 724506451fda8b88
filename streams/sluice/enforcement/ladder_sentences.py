"""What ladders tell people: the code of a signal, what it saw, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.enforcement.ladder import Rung
from sluice.enforcement.signals.signal import PPM, Signal
from sluice.money import format_usd

CODES: Mapping[str, str] = {
    "burn": "BUDGET_BURN_RATE",
    "exhaustion": "BUDGET_FORECAST",
    "slo_burn": "SLO_BURN_RATE",
    "loop": "LOOP_DETECTED",
    "repetition": "LOOP_SUSPECTED",
    "task_cost": "TASK_COST_EXCEEDED",
    "fan_out": "FAN_OUT_EXCEEDED",
    "depth": "DEPTH_EXCEEDED",
    "retry_share": "RETRY_STORM",
    "noisy_neighbour": "NOISY_NEIGHBOUR",
    "jitter": "JITTER",
    "drift": "COST_DRIFT",
}
# `value` is the signal's; other names are those of its evidence, money in USD and times in ms.
_SENTENCES: Mapping[str, str] = {
    "burn": "a budget is spent {value} times as fast as its period allows",
    "exhaustion": "what a budget is due until its period ends is {value} times what is left of it",
    "slo_burn": "bad outcomes cost {value} times what the service level allows "
    "({bad_pusd} of {cost_pusd} USD)",
    "loop": "the task repeats itself after {tool_calls} tool calls",
    "repetition": "{value} of the task's newest tool calls repeat earlier ones",
    "task_cost": "the task has cost {cost_pusd} USD, {value} times the most that such tasks "
    "normally do",
    "fan_out": "one call of the task made {value} calls",
    "depth": "the task's calls are nested {value} deep",
    "retry_share": "{value} of {requests} requests repeat an earlier one",
    "noisy_neighbour": "it takes {value} of the pool while others wait {others_queue_us} ms, "
    "usually {usual_queue_us} ms",
    "jitter": "slow requests lie {value} times as far from usual ones as before",
    "drift": "costs have moved up by a score of {value} deviations",
}
_SHARES = frozenset({"retry_share", "noisy_neighbour", "repetition"})
_PLAIN: Mapping[str, str] = {
    "allow": "admitted again",
    "preempt": "preempted",
    "block": "refused",
}


def sentence(signal: Signal) -> str:
    """What a signal saw, with its numbers and its threshold."""
    evidence = {name: _shown(name, value) for name, value in signal.evidence}
    text = _SENTENCES[signal.name].format(value=_number(signal, signal.value), **evidence)
    over = f" over {signal.window}" if signal.window[:1].isdigit() else ""
    return f"{text}{over} (threshold {_number(signal, signal.threshold)})"


def consequence(rung: Rung) -> str:
    """What is done on a rung, in words that follow `requests are`."""
    params = rung.params
    if rung.action == "rate_limit":
        return f"limited to {params['rate_per_minute']} a minute per admission point"
    if rung.action == "degrade":
        return f"served by {' or '.join(params['fallback_models'])}"
    if rung.action == "queue":
        return f"queued for at most {params['queue_timeout_ms']} ms"
    if rung.action == "isolate":
        return f"moved to pool {params['pool']}"
    if rung.action == "allow_with_caps":
        caps = ", ".join(f"{name} {_listed(value)}" for name, value in params.items())
        return f"admitted with caps ({caps})"
    return _PLAIN[rung.action]


def _listed(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value).lower()


def _shown(name: str, value: int) -> str:
    if name.endswith("_pusd"):
        return format_usd(value)
    return str(value // 1000 if name.endswith("_us") else value)


def _number(signal: Signal, value: int) -> str:
    if signal.unit == "count":
        return str(value)
    if signal.name in _SHARES:
        return f"{value * 100 / PPM:.1f} %"
    return f"{value / PPM:.2f}"
