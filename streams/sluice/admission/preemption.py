"""Decisions that stop what runs: at once, or when they begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sluice.admission.control_state import ControlState, Match
from sluice.admission.decision import Decision
from sluice.admission.verdict import Verdict, refused

Stop = Callable[[Decision, Verdict], None]


class Preemption:
    """Calls `stop` once for every decision that preempts; boundary task lets running ones end."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._later: dict[bytes, Decision] = {}

    def note(self, decisions: Iterable[Decision], state: ControlState, now: int) -> None:
        """Take decisions that have come; those that begin later wait for `begin`."""
        for decision in decisions:
            effect = decision.effect
            if decision.shadow or effect.action != "preempt" or effect.caps.boundary == "task":
                continue
            if now < decision.starts_at:
                self._later[decision.key] = decision
            elif decision.effect_at(now) is not None:
                self._stop(decision, refused(Match(decision, effect), now, state.staleness(now)))

    def begin(self, state: ControlState, now: int) -> None:
        """Stop what runs under decisions that have begun and are still in force."""
        for key, decision in list(self._later.items()):
            if state.decisions.get(key) is not decision:
                del self._later[key]
            elif now >= decision.starts_at:
                del self._later[key]
                self.note((decision,), state, now)
