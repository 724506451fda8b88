"""A metered gateway for tests: clocks moved by hand, events kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.unit.admission.messages import Clock, Sent, point

from sluice.admission.metered import Call, Metered
from sluice.admission.verdict import AdmissionRequest
from sluice.wire.codec import encode

CHAT = AdmissionRequest(
    "acme", "chat", "m1", end_user_hash="u", api_key_hash="k", region="eu", pool="p",
    estimated_cost_pusd=9, max_output_tokens=500,
)  # fmt: skip


@dataclass
class Bench:
    """A Metered on clocks that are moved by hand and an emitter that keeps what it gets."""

    messages: tuple[bytes, ...] = ()
    wall: Clock = field(default_factory=Clock)
    steady: Clock = field(default_factory=lambda: Clock(7))
    sent: Any = field(default_factory=Sent)

    def __post_init__(self) -> None:
        admitting = point(*self.messages, clock=self.wall)
        ids = (f"id{number}" for number in range(10**6))
        self.metered = Metered(admitting, self.sent, clock=self.wall, steady=self.steady,
                               new_id=lambda: next(ids))  # fmt: skip

    def call(self, **over: Any) -> Call:
        """A call of acme's chat."""
        return self.metered.call(CHAT, **{"provider_name": "openai", **over})

    def after(self, steps_us: int) -> None:
        """Let time go by."""
        self.steady.now += steps_us

    @property
    def event(self) -> dict[str, Any]:
        """The only event, which the wire must take."""
        (event,) = self.sent
        emitters = {"source": "s", "source_epoch": "e", "end_mark": 90}
        encode("UsageEvent", {**event, **emitters})
        return dict(event)
