"""Steps that tasks may still take under a decision, counted from when it took hold here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from sluice.admission.control_state import Match

STEP_LIMIT = "STEP_LIMIT"
MAX_TASKS = 65_536


class Steps:
    """Counts steps by decision and task; of more than MAX_TASKS the oldest are forgotten.

    A newer word of the same decision counts anew: it says how many remain from there. Pure; one
    thread at a time.
    """

    def __init__(self) -> None:
        self._taken: OrderedDict[tuple[bytes, tuple[int, int], str], int] = OrderedDict()

    def take(self, matches: Sequence[Match], task_id: str) -> Match | None:
        """Take a step under every match that has a limit, or none and name the one without rest."""
        limited = [m for m in matches if m.effect.caps.max_steps_remaining is not None]
        keys = [(m.decision.key, m.decision.version, task_id) for m in limited]
        for match, key in zip(limited, keys, strict=True):
            most = match.effect.caps.max_steps_remaining
            if most is not None and self._taken.get(key, 0) >= most:
                return match
        for key in keys:
            self._taken[key] = self._taken.get(key, 0) + 1
        while len(self._taken) > MAX_TASKS:
            self._taken.popitem(last=False)
        return None
