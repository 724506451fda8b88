"""What a desk needs to know: of its point, and of the gateway that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from uuid_utils import uuid7

from sluice.admission.control_state import ControlState
from sluice.admission.queues import QueueOptions
from sluice.admission.verdict import AdmissionRequest, Verdict

Price = Callable[[Mapping[str, Any]], int | None]


class Point(Protocol):
    """The admission point behind a desk."""

    @property
    def state(self) -> ControlState:
        """What the control topic says."""

    @property
    def ready(self) -> bool:
        """Whether the control topic was read to its end once."""

    @property
    def cold_left_s(self) -> float:
        """How long requests still wait for that, seconds."""

    def admit(self, request: AdmissionRequest) -> Verdict:
        """Decide about one request by the decisions in force."""

    def told(self, request: AdmissionRequest, verdict: Verdict, now: int) -> Verdict:
        """Count a refusal."""

    def publish_later(self, event: Mapping[str, Any], then: Callable[[], None]) -> None:
        """Keep an event that could not be emitted, try again, and call `then` when it is gone."""


@dataclass(frozen=True, slots=True)
class DeskOptions:
    """`holder_slot`: the place of this process that its successor takes over (None: its source).

    `price` tells the pico-USD of a usage event, by the price book that the meter uses; without
    it, and without a cost in the usage, a request is charged its estimate here. The control topic
    counts as stale after `stale_after_ms`.
    """

    holder_slot: str | None = None
    price: Price | None = None
    stale_after_ms: int = 30_000
    queues: QueueOptions = field(default_factory=QueueOptions)
    new_id: Callable[[], str] = lambda: str(uuid7())
