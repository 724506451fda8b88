"""Why an event cost what it cost: a closed list of causes, split exactly.

Every event's cost is split over the causes, and its tail is allocated pro rata to that split. For a
cost that depends only on the sum, pro rata is the Aumann-Shapley price of max(0, sum - b) along the
diagonal, so no order of causes has to be invented. Whole pico-dollars by largest remainder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sluice.metering.classes import MEASURED_CLASSES, TOKEN_CLASSES
from sluice.metering.rating import Part

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

Split = tuple[int, ...]
NOTHING: Split = (0,) * len(CAUSES)


class Context(NamedTuple):
    """What the event's task and cohort knew before it.

    `looping`: its task repeats itself; `cached_tokens`: input tokens that the task's last call left
    in the provider's cache; `usual_input`: median input_tokens of its cohort, None where unknown.
    """

    looping: bool = False
    cached_tokens: int = 0
    usual_input: int | None = None


def split(
    event: Mapping[str, Any], cost_pusd: int, parts: Sequence[Part], context: Context
) -> Split:
    """Cost per cause, in the order of CAUSES; the sum is `cost_pusd`.

    A further attempt, a loop and an unused output are overhead as a whole, the first that applies.
    Else: recompute is the new input that had been computed before (as the engine says, or what the
    task's cache held and this call did not read); context_growth the input beyond what is usual;
    queue_hold the time-priced share (GPU, KV cache) of the time spent waiting.
    """
    whole = _whole(event, looping=context.looping)
    if whole is not None:
        return _only(whole, cost_pusd)
    if event["event_type"] == "correction":
        return _only(FIRST_PASS, cost_pusd)
    shares = [0] * len(CAUSES)
    shares[RECOMPUTE], shares[CONTEXT_GROWTH] = _input_shares(event, parts, context)
    shares[QUEUE_HOLD] = _waiting(event, parts)
    shares[FIRST_PASS] = cost_pusd - sum(shares)
    return tuple(shares)


def _only(cause: int, cost_pusd: int) -> Split:
    shares = [0] * len(CAUSES)
    shares[cause] = cost_pusd
    return tuple(shares)


def _whole(event: Mapping[str, Any], *, looping: bool) -> int | None:
    if event["attempt_kind"] == "hedge":
        return HEDGE
    if event["attempt"] > 1 or event["attempt_kind"] is not None:
        return RETRY
    if looping:
        return LOOP
    if event["slo_outcome"] == "abandoned" or event["outcome"] == "cancelled":
        return ABANDONED
    return None


def _input_shares(
    event: Mapping[str, Any], parts: Sequence[Part], context: Context
) -> tuple[int, int]:
    """Cost of recomputed input, and of input beyond the usual length."""
    tokens, read = event["input_tokens"], event["cache_read_input_tokens"]
    fresh = tokens - read
    dropped = max(0, context.cached_tokens - read)
    again = min(fresh, max(event["recomputed_input_tokens"], dropped))
    recompute = _cost_of(parts, NEW_INPUT_CLASSES) * again // fresh if again > 0 else 0
    beyond = min(tokens - context.usual_input, tokens - again) if context.usual_input else 0
    if beyond <= 0:
        return recompute, 0
    rest = _cost_of(parts, INPUT_CLASSES) - recompute
    return recompute, rest * beyond // (tokens - again)


def _waiting(event: Mapping[str, Any], parts: Sequence[Part]) -> int:
    waited, lasted = event["queue_us"], event["latency_us"]
    if not waited or not lasted:
        return 0
    return int(_cost_of(parts, TIMED_CLASSES) * min(waited, lasted) // lasted)


def _cost_of(parts: Sequence[Part], classes: frozenset[str]) -> int:
    return sum(part.cost_pusd for part in parts if part.key in classes)


def allocate(tail_pusd: int, shares: Split) -> Split:
    """`tail_pusd` in the proportions of `shares`, 0 ≤ tail_pusd ≤ their sum; ties by index."""
    whole = sum(shares)
    if not tail_pusd or not whole:
        return NOTHING
    given = [tail_pusd * share // whole for share in shares]
    left = tail_pusd - sum(given)
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(tail_pusd * shares[i] % whole), i))
    for index in by_remainder[:left]:
        given[index] += 1
    return tuple(given)
