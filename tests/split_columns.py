"""Costs and tails of events split over their causes, one tuple per event, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sluice.metering.columnar.causes import Contexts, split
from sluice.metering.columnar.rating import Parts
from sluice.metering.columnar.window_rows import CLASSES
from sluice.metering.parts import Part
from tests.laws.one_by_one_tasks import Context
from tests.window_columns import ints, usage_of

Shares = tuple[int, ...]


class Costing(NamedTuple):
    """An event, the parts of its cost, its tail, and what was known before it."""

    event: Mapping[str, Any]
    parts: Sequence[Part]
    tail_pusd: int = 0
    context: Context = Context()
    cost_pusd: int | None = None

    def cost(self) -> int:
        """The cost where it is stated, else that of the parts."""
        parts = sum(part.cost_pusd for part in self.parts)
        return parts if self.cost_pusd is None else self.cost_pusd


def splits_of(costings: Sequence[Costing]) -> list[tuple[Shares, Shares]]:
    """Shares of the cost and of the tail of each event, in the order of CAUSES."""
    parts = [
        (n, CLASSES.index(part.key), part.quantity, part.cost_pusd)
        for n, one in enumerate(costings)
        for part in one.parts
    ]
    contexts = [one.context for one in costings]
    found = split(
        usage_of([one.event for one in costings]), ints(*(one.cost() for one in costings)),
        ints(*(one.tail_pusd for one in costings)),
        Parts(*np.array(parts, dtype=np.int64).reshape(-1, 4).T),
        Contexts(
            np.array([one.looping for one in contexts], dtype=np.bool_),
            ints(*(one.cached_tokens for one in contexts)),
            ints(*(one.usual_input or 0 for one in contexts)),
        ),
    )  # fmt: skip
    columns = ([tuple(row) for row in of.T.tolist()] for of in found)
    return list(zip(*columns, strict=True))
