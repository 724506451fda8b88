"""Texts that rows share, as numbers; those that no row has any more are forgotten in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sluice.wire.column_types import Bools, Coded, Ints

NONE, EMPTY = 0, 1
_FEW = 1024


class Names:
    """Texts by number. None and "" are always there."""

    def __init__(self) -> None:
        self.texts: list[str | None] = [None, ""]
        self._numbers: dict[str | None, int] = {None: NONE, "": EMPTY}
        self._most = _FEW
        self._ranks: Ints = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def number(self, text: str | None) -> int:
        """The number of a text, which is taken in where it is new."""
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def numbers(self, coded: Coded) -> Ints:
        """The numbers of a column of texts."""
        return np.array([self.number(text) for text in coded.values], dtype=np.int64)[coded.codes]

    def coded(self, numbers: npt.NDArray[np.integer[Any]]) -> Coded:
        """The texts of numbers."""
        found, codes = np.unique(numbers, return_inverse=True)
        return Coded(codes.astype(np.int64), [self.texts[number] for number in found.tolist()])

    def ranks(self) -> Ints:
        """The place of each text, by its number, in the order of all texts; null comes first."""
        if len(self._ranks) != len(self.texts):
            known = sorted(range(EMPTY, len(self.texts)), key=lambda n: self.texts[n] or "")
            self._ranks = np.zeros(len(self.texts), dtype=np.int64)
            self._ranks[known] = np.arange(1, len(self.texts))
        return self._ranks

    def is_crowded(self, most_used: int) -> bool:
        """Whether at least half are surely or probably not in use, of which `most_used` may be.

        Probably: they are more than twice as many as were in use when it was last looked at.
        """
        return len(self.texts) > min(self._most, max(_FEW, 2 * most_used))

    def keep(self, used: Bools) -> Ints:
        """Forget texts that are not used; the new number of each old one."""
        used[[NONE, EMPTY]] = True
        kept = np.flatnonzero(used)
        moved = np.zeros(len(used), dtype=np.int64)
        moved[kept] = np.arange(len(kept))
        self.texts = [self.texts[number] for number in kept.tolist()]
        self._numbers = {text: number for number, text in enumerate(self.texts)}
        self._most = max(_FEW, 2 * len(kept))
        self._ranks = np.zeros(0, dtype=np.int64)
        return moved
