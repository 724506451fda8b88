"""Tasks as decisions see them: when they began here, and steps that they may still take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from sluice.admission.control_state import Match

STEP_LIMIT = "STEP_LIMIT"
MAX_TASKS = 65_536


class Begun:
    """When each task was first seen; of more than MAX_TASKS the oldest are forgotten.

    Pure; one thread at a time.
    """

    def __init__(self) -> None:
        self._since: OrderedDict[str, int] = OrderedDict()

    def see(self, task_id: str, now: int) -> None:
        """Note that a task runs at `now` (µs UTC)."""
        self._since.setdefault(task_id, now)
        while len(self._since) > MAX_TASKS:
            self._since.popitem(last=False)

    def before(self, task_id: str, match: Match) -> bool:
        """Whether a task began before a decision did."""
        began = match.decision.starts_at or match.decision.issued_at
        return self._since.get(task_id, began) < began


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
