"""Where the rows of tasks lie: slots that are given and taken back, blocks, shared texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sluice.metering.columnar import task_layout as layout
from sluice.metering.columnar import task_upkeep as upkeep
from sluice.metering.columnar.names import Names
from sluice.metering.columnar.task_layout import Store
from sluice.metering.tasks import TaskKey
from sluice.wire.column_types import Ints

_Number = TypeVar("_Number", np.int64, np.int32)

_SLOTS, _BLOCKS = 256, 8  # to begin with
_ID_COLUMNS = slice(layout.PROJECT, layout.PROJECT + layout.TEXTS)


class TaskStore:
    """Slots by key. Arrays double when they are full; what was never used takes no memory."""

    def __init__(self) -> None:
        self.names = Names()
        self.slots: dict[TaskKey, int] = {}
        self.keys: list[TaskKey | None] = []
        self._free: list[int] = []
        self.arrays = Store(
            np.empty((_SLOTS, layout.AMOUNTS), dtype=np.int64),
            np.zeros((_SLOTS, layout.MARKS), dtype=np.int32),
            *_blocks(2 * layout.MEMORY), *_blocks(layout.MEMORY),
            np.empty(_SLOTS, dtype=np.int64), np.empty(_SLOTS, dtype=np.int64),
            np.zeros(layout.COUNTS, dtype=np.int64),
        )  # fmt: skip
        self.arrays.counts[[layout.FREE_CHILDREN, layout.FREE_SYMBOLS]] = _BLOCKS - 1

    @property
    def top(self) -> int:
        """The number of slots that were ever used."""
        return len(self.keys)

    def slots_of(self, keys: Iterable[TaskKey]) -> Ints:
        """Slots of tasks; those that have none are given one, whose row is empty."""
        slots, known = [], self.slots
        for key in keys:
            slot = known.get(key)
            slots.append(self._taken(key) if slot is None else slot)
        if self.top > len(self.arrays.marks):
            self._grow()
        return np.array(slots, dtype=np.int64)

    def slots_in_use(self, keys: Iterable[TaskKey]) -> Ints:
        """Slots of those tasks that have one."""
        found = [slot for key in keys if (slot := self.slots.get(key)) is not None]
        return np.array(found, dtype=np.int64)

    def put(self, slots: Ints, amounts: Ints, marks: layout.Marks) -> None:
        """Fill the rows of slots that were just given; those that are dirty are to be published."""
        arrays = self.arrays
        arrays.amounts[slots], arrays.marks[slots] = amounts, marks
        dirty = slots[(marks[:, layout.FLAGS] & layout.DIRTY) != 0]
        count = int(arrays.counts[layout.DIRTY_COUNT])
        arrays.dirty[count : count + len(dirty)] = dirty
        arrays.counts[layout.DIRTY_COUNT] += len(dirty)

    def _taken(self, key: TaskKey) -> int:
        if self._free:
            slot = self._free.pop()
            self.keys[slot] = key
        else:
            slot = len(self.keys)
            self.keys.append(key)
        self.slots[key] = slot
        return slot

    def keys_of(self, slots: Ints) -> list[TaskKey]:
        """Keys of slots in use."""
        return [key for slot in slots.tolist() if (key := self.keys[slot]) is not None]

    def free(self, slots: Ints) -> None:
        """Take slots back with all that is in them."""
        for key in self.keys_of(slots):
            del self.slots[key]
        for slot in slots.tolist():
            self.keys[slot] = None
            self._free.append(slot)
        upkeep.clear(self.arrays, slots)

    def forget_texts(self) -> None:
        """Forget the texts that no task has any more, once they are as many as the others."""
        if not self.names.is_crowded(layout.TEXTS * len(self.slots)):
            return
        ids = self.arrays.marks[: self.top, _ID_COLUMNS]
        used = np.zeros(len(self.names), dtype=np.bool_)
        used[ids.ravel()] = True
        ids[:] = self.names.keep(used)[ids]

    def reserve(self, children: int, symbols: int) -> None:
        """See to it that so many blocks of each kind are free."""
        arrays = self.arrays
        counts = arrays.counts
        if counts[layout.FREE_CHILDREN] < children:
            more = _more_blocks(
                arrays.children, arrays.free_children, counts, layout.FREE_CHILDREN, children
            )
            arrays = arrays._replace(children=more[0], free_children=more[1])
        if counts[layout.FREE_SYMBOLS] < symbols:
            more = _more_blocks(
                arrays.symbols, arrays.free_symbols, counts, layout.FREE_SYMBOLS, symbols
            )
            arrays = arrays._replace(symbols=more[0], free_symbols=more[1])
        self.arrays = arrays

    def _grow(self) -> None:
        size = len(self.arrays.marks)
        while size < self.top:
            size *= 2
        self.arrays = self.arrays._replace(**{
            name: _longer(getattr(self.arrays, name), size)
            for name in ("amounts", "marks", "dirty", "changed")
        })  # fmt: skip


def sorted_slots(keys: Sequence[TaskKey], slots: Ints) -> Ints:
    """Slots in the order of their keys."""
    return slots[sorted(range(len(keys)), key=keys.__getitem__)]


def _longer(array: npt.NDArray[_Number], size: int) -> npt.NDArray[_Number]:
    """The same array with room for `size` rows; the new ones are 0."""
    longer: npt.NDArray[_Number] = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def _blocks(width: int) -> tuple[Ints, Ints]:
    """Blocks and the stack of the free ones; block 0 stands for none."""
    free = np.arange(_BLOCKS, dtype=np.int64)
    free[:-1] = free[1:]
    return np.zeros((_BLOCKS, width), dtype=np.int64), free


def _more_blocks(
    blocks: Ints, free: Ints, counts: Ints, count: int, needed: int
) -> tuple[Ints, Ints]:
    before, height = len(blocks), int(counts[count])
    size = before
    while height + size - before < needed:
        size *= 2
    free = _longer(free, size)
    free[height : height + size - before] = np.arange(before, size)
    counts[count] = height + size - before
    return _longer(blocks, size), free
