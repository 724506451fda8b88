"""How the sums of tasks lie in arrays: a task has a row of amounts and a row of marks.

Loops that were compiled and kept do not notice a change here: remove what was kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.wire.column_types import Bools, Ints

Marks = npt.NDArray[np.int32]

# Columns of `Store.amounts`; _AT are broker times but for STARTED_AT and LAST_SEEN_AT.
(OPENED_AT, STARTED_AT, LAST_SEEN_AT, SEEN_AT, EVENTS, STEPS, TOOL_CALLS, FAN_OUT, RETRIES,
 INPUT_TOKENS, OUTPUT_TOKENS, COST_PUSD, UNPRICED, TAIL_PUSD, LOOP_PUSD, GROSS_PUSD, BASELINE_PUSD,
 CACHED_TOKENS) = range(18)  # fmt: skip
AMOUNTS = 18
# Columns of `Store.marks`: numbers of texts, the depth, flags; blocks (0: none) and their use.
(PROJECT, AGENT, WORKFLOW, OUTCOME, SLO_OUTCOME, CACHED_MODEL, DEPTH, FLAGS, CHILDREN, PARENTS,
 SYMBOLS, SYMBOLS_END) = range(12)  # fmt: skip
MARKS, TEXTS = 12, 6
# Flags of a task; one that is not LIVE opens with the next event.
LIVE, ENDED, DIRTY, CHANGED, LOOPING, JUDGED = 1, 2, 4, 8, 16, 32
# Places in `Store.counts`.
DIRTY_COUNT, CHANGED_COUNT, FREE_CHILDREN, FREE_SYMBOLS = range(4)
COUNTS = 4
MEMORY = 64  # parents and symbols of a task, of each the newest
# Columns of an event; SYMBOL and PARENT are -1 where there is none.
(TIME, COST, TAIL, Q95, OCCURRED, STARTED, INPUT, OUTPUT, READ, WRITTEN, DEPTH_OF, KIND, PROJECT_OF,
 AGENT_OF, WORKFLOW_OF, OUTCOME_OF, SLO_OF, MODEL_OF, SYMBOL, PARENT) = range(20)  # fmt: skip
EVENT_COLUMNS = 20
# Bits of KIND.
CORRECTION, REQUEST, INFERENCE, TOOL, AGAIN, PRICED, KNOWN, HAD_NO_PRICE = (
    1, 2, 4, 8, 16, 32, 64, 128,
)  # fmt: skip
EMPTY_TEXT = 1  # numbers of texts: 0 is None, 1 is ""


class Store(NamedTuple):
    """Rows of tasks by slot, blocks of their parents and symbols, and which slots wait for what.

    A block of `children` holds numbers of parents, oldest first, then their counts; one of
    `symbols` is a ring. Free blocks lie on stacks whose heights are in `counts`.
    """

    amounts: Ints
    marks: Marks
    children: Ints
    free_children: Ints
    symbols: Ints
    free_symbols: Ints
    dirty: Ints
    changed: Ints
    counts: Ints


class Norms(NamedTuple):
    """What tasks of the run normally cost at most, where that was measured; calls in a task."""

    q95_pusd: Ints
    known: Bools
    calls: int


class LoopRule(NamedTuple):
    """When symbols repeat, as `loops` says it."""

    same: int
    same_failed: int
    longest_period: int
    rounds: int


class Kinds(NamedTuple):
    """Columns of a run that say what kind of event each row is."""

    attempt: Ints
    attempt_kind_length: Ints
    priced: Bools
    known: Bools
    original_known: Bools


class Moves(NamedTuple):
    """Columns of a run that move sums which may leave 64 bits; a cost counts where `priced`."""

    cost_pusd: Ints
    priced: Bools
    input_tokens: Ints
    output_tokens: Ints
