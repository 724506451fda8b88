"""How the arrays of window rows are laid out, and what is put into them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.metering.columnar.sparse import Links
from sluice.metering.quantities import MEASURED, TOKENS
from sluice.wire.column_types import Bools, Ints

# Columns of `Rows.sums`.
SUMS = (
    "events", "requests", *TOKENS, *MEASURED, "cost_pusd", "gross_pusd", "volume", "unpriced",
    "corrections", "corrected_pusd", "clamped", "body_pusd", "shoulder_pusd", "tail_pusd",
    "task_tail_pusd", "good", "refused", "averted_pusd", "packaged", "unlabelled", "revision",
    "measured",
)  # fmt: skip
EVENTS, REQUESTS, TOKENS_AT, MEASURED_AT = 0, 1, 2, 2 + len(TOKENS)
(COST, GROSS, VOLUME, UNPRICED, CORRECTIONS, CORRECTED, CLAMPED, BODY, SHOULDER, TAIL, TASK_TAIL,
 GOOD, REFUSED, AVERTED, PACKAGED, UNLABELLED, REVISION,
 KNOWN) = range(MEASURED_AT + len(MEASURED), len(SUMS))  # fmt: skip
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
    """Rows by slot; `places` finds slots by key, by open addressing."""

    sums: Ints
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
