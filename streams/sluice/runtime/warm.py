"""Compiles every loop of the meter, so that no process has to while records wait.

`python -m sluice.runtime.warm` after an installation; a worker does it before it joins its group,
which takes a moment where the machine code is kept on disk and half a minute where it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from sluice.enforcement.policy import Policy
from sluice.runtime.partition import Partition
from sluice.runtime.state import State
from sluice.wire.codec import encode
from sluice.wire.topics import Topics

_NOW = 1_800_000_000_000_000
_HOUR_US = 3_600_000_000
_MANY = 24  # more than what is looked at one by one
_NAMES = 1100  # so many that they are tidied up when their rows are gone


@dataclass(slots=True)
class _Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


_POLICY = Policy.model_validate({
    "policy_id": "warm",
    "budgets": [
        {"budget_id": "hard", "scope": ["tenant_id"], "unit": "tokens", "limit": 10**9,
         "hard": True, "period": "rolling", "rolling": "1h"},
        {"budget_id": "soft", "scope": ["tenant_id"], "unit": "requests", "limit": 1,
         "period": "day", "rules": [{"rule_id": "stop", "at": "100%", "action": "block"}]},
        {"budget_id": "all", "scope": [], "unit": "tokens", "limit": 10**9, "hard": True,
         "period": "day"},
    ],
    "risk": {"rules": [
        {"rule_id": "circles", "signal": "loop", "at": 1, "action": "block"},
        {"rule_id": "drifts", "signal": "drift", "at": 5, "action": "block"},
    ]},
})  # fmt: skip


class _Policies:
    """One policy and nothing else: usage has no price, all else happens to it all the same."""

    def get(self, name: tuple[str, str, str]) -> Policy | None:
        """The policy."""
        return _POLICY if name[0] == "policy" else None

    def is_faulty(self, _name: tuple[str, str, str]) -> bool:
        """Nothing is."""
        return False


def warm_up() -> None:
    """Apply one of each kind of event to a partition that nobody has, and restore its state."""
    topics, state = Topics("warm.", 1), State(_HOUR_US, _HOUR_US)
    partition = Partition(topics, 0, state, _Policies(), epoch=1)
    second = State(_HOUR_US, _HOUR_US)
    for records in _chunks():
        partition.apply(records)
        partition.next_due()
        taken = [out for out in partition.take() if out.topic == topics.meter_state]
        second.load({out.key: out.value or b"" for out in taken})


def _chunks() -> Iterator[list[_Record]]:
    offsets = count()
    named = {"kind": "policy", "id": _POLICY.policy_id, "version": _POLICY.version}
    yield [_Record(next(offsets), _NOW // 1000, None, encode("Activate", named))]
    for events in (1, _MANY):
        yield [
            _Record(next(offsets), _NOW // 1000, b"t", encode("UsageEvent", event))
            for number in range(events)
            for event in _events(f"e{events}", number)
        ]
    yield [
        _Record(next(offsets), _NOW // 1000, b"t",
                encode("UsageEvent", next(_events("names", number)) | {"project_id": f"{number}"}))
        for number in range(_NAMES)
    ]  # fmt: skip
    for hours in (1, 2, 3, 4):
        time = _NOW + hours * _HOUR_US
        yield [_Record(next(offsets), time // 1000, None, encode("Tick", {}))]


def _events(epoch: str, number: int) -> Iterator[dict[str, Any]]:
    base: dict[str, Any] = {
        "event_id": f"{epoch}-{number}", "source": "warm", "source_epoch": epoch,
        "occurred_at": _NOW, "started_at": _NOW, "timing_quality": "gateway", "tenant_id": "t",
        "project_id": "p", "attempt": 1, "step": 1, "depth": 0, "operation_name": "chat",
        "provider_name": "p", "request_model": "m", "priority": "standard", "input_tokens": 5,
        "output_tokens": 3, "usage_source": "provider", "outcome": "ok", "event_type": "inference",
        "latency_us": 9, "queue_us": 4, "risk_flags": ["f"], "task_id": "t", "agent_name": "a",
        "parent_event_id": "e", "slo_outcome": "good", "cost_pusd": 7, "cost_source": "provider",
    }  # fmt: skip
    kinds: list[dict[str, Any]] = [
        base,
        {"event_type": "tool", "tool_name": "s", "tool_args_hash": "x", "result_hash": "r"},
        {"event_type": "correction", "corrects_event_id": "e", "original_cost_pusd": 7},
        {"event_type": "admission", "outcome": "rejected", "task_id": None},
    ]
    for place, more in enumerate(kinds):
        yield {**base, **more, "source_seq": 4 * number + place + 1}


if __name__ == "__main__":
    warm_up()
