"""How the arrays of window rows are laid out, and what is put into them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.metering.columnar.sparse import Links
from sluice.metering.quantities import MEASURED, TOKENS
from sluice.wire.column_types import Bools, Ints

# Measured amounts that few events have; the others follow in MEASURED.
FEW = MEASURED.index("queue_us")
# Columns of `Rows.sums`, then those of `Rows.rare`.
COMMON_SUMS = (
    "events", "requests", *TOKENS, *MEASURED[FEW:], "cost_pusd", "gross_pusd", "volume",
    "unpriced", "body_pusd", "shoulder_pusd", "tail_pusd", "task_tail_pusd", "good", "packaged",
    "unlabelled", "revision", "measured",
)  # fmt: skip
RARE_SUMS = (*MEASURED[:FEW], "corrections", "corrected_pusd", "clamped", "refused",
             "averted_pusd")  # fmt: skip
SUMS = COMMON_SUMS + RARE_SUMS
EVENTS, REQUESTS, TOKENS_AT, TIMES_AT = 0, 1, 2, 2 + len(TOKENS)
(COST, GROSS, VOLUME, UNPRICED, BODY, SHOULDER, TAIL, TASK_TAIL, GOOD, PACKAGED, UNLABELLED,
 REVISION, KNOWN) = range(TIMES_AT + len(MEASURED) - FEW, len(COMMON_SUMS))  # fmt: skip
CORRECTIONS, CORRECTED, CLAMPED, REFUSED, AVERTED = range(FEW, len(RARE_SUMS))
# Columns of `Rows.names`: numbers of texts.
KEY_NAMES = ("tenant_id", "project_id", "model", "tool", "lane")
BOOK, BASELINE = len(KEY_NAMES), len(KEY_NAMES) + 1
WIDTH = len(KEY_NAMES) + 2
# Bits of `Rows.state`.
LIVE, CLOSED, DIRTY, CHANGED, TASKED = 1, 2, 4, 8, 16
# Kinds of labels: an entry's key is kind * LABEL_STEP + the label's number.
OUTCOMES, SLO_OUTCOMES, ROLLBACK_REASONS, RISK_FLAGS = range(4)
LABEL_STEP = 2**28
# Keys of classes are places in the list of classes; those of causes begin here.
CAUSES_AT = 2**20
LATENCY = MEASURED.index("latency_us")
# Places of `Rows.counts`.
ROWS_USED, ROW_FREE, ROWS_LIVE, GONE_FROM_INDEX = range(4)
# Chains of one histogram: a bucket is in that of its number's lowest bits.
WAYS = 4


class Rows(NamedTuple):
    """Rows by slot; `places` finds slots by key, by open addressing.

    Sums that most rows do not have are apart: memory that nothing was written to costs nothing.
    """

    sums: Ints
    rare: Ints
    start: Ints
    names: Links
    state: npt.NDArray[np.uint8]
    classes: Links
    latency: Links
    cost: Links
    labels: Links
    places: Links
    counts: Ints


class Keys(NamedTuple):
    """Identities of rows: numbers of the names as in KEY_NAMES, and begins (µs)."""

    names: Ints
    start: Ints


class Added(NamedTuple):
    """Labelled events of a run: a row of `numbers` or a column of the others per event.

    `tokens`, `measured` and `overhead` have one row per kind. `labels` are numbers of texts, -1
    where there is none; parts and flags of event n are those from `part_end[n - 1]` on.
    """

    slot: Ints
    tokens: Ints
    measured: Ints
    known: Bools
    cost_pusd: Ints
    priced: Bools
    correction: Bools
    original_pusd: Ints
    original_known: Bools
    bands: Ints
    overhead: Ints
    tail_by_cause: Ints
    task_tail_pusd: Ints
    task_tail_known: Bools
    request: Bools
    good: Bools
    clamped: Bools
    packaged: Bools
    labelled: Bools
    labels: Ints
    part_end: Ints
    part_key: Ints
    part_quantity: Ints
    part_cost: Ints
    flag_end: Ints
    flag: Ints


class Listed(NamedTuple):
    """Entries of stored rows; those of row n are from `end[n - 1]` on."""

    end: Ints
    key: Ints
    first: Ints
    second: Ints


class Stored(NamedTuple):
    """Rows as they were stored, in the order of their log."""

    sums: Ints
    state: npt.NDArray[np.uint8]
    book: Ints
    baseline: Ints
    classes: Listed
    latency: Listed
    cost: Listed
    labels: Listed
