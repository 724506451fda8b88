"""Why an event cost what it cost: a closed list of causes, split exactly.

Every event's cost is split over the causes, and its tail is allocated pro rata to that split. For a
cost that depends only on the sum, pro rata is the Aumann-Shapley price of max(0, sum - b) along the
diagonal, so no order of causes has to be invented. Whole pico-dollars by largest remainder.

A further attempt, a loop and an unused output are overhead as a whole, the first that applies.
Else: recompute is the new input that had been computed before (as the engine says, or what the
task's cache held and this call did not read); context_growth the input beyond what is usual;
queue_hold the time-priced share (GPU, KV cache) of the time spent waiting. A correction is not
split: its cost and its tail have the one cause of its original.
"""

from __future__ import annotations

from sluice.metering.classes import MEASURED_CLASSES, TOKEN_CLASSES

CAUSES = (
    "first_pass", "retry", "hedge", "recompute", "queue_hold", "loop", "abandoned",
    "context_growth",
)  # fmt: skip
FIRST_PASS, RETRY, HEDGE, RECOMPUTE, QUEUE_HOLD, LOOP, ABANDONED, CONTEXT_GROWTH = range(
    len(CAUSES)
)
NEW_INPUT_CLASSES = frozenset(k for k in TOKEN_CLASSES if k.startswith(("input", "cache_write")))
INPUT_CLASSES = NEW_INPUT_CLASSES | {k for k in TOKEN_CLASSES if k.startswith("cache_read")}
TIMED_CLASSES = frozenset(MEASURED_CLASSES)
