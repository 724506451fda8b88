"""What a successor must know to close the leases of an epoch that ended without a word.

The newest report on each lease, and the last number under each key. Both follow from the records
of the log; the file `standing` keeps them where the records were delivered and deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sluice.errors import WireError
from sluice.wire.codec import decode
from sluice.wire.wal_frames import Damage, Frame, frames, pack
from sluice.wire.wal_lock import FILE_MODE

STANDING_NAME = "standing"
# A record that is no usage event has no number under its key.
UNNUMBERED = 0
# Key of reports on budgets that span tenants; no usage has it.
ACROSS = b""

_HELD = ("wants", "in_flight_reserved", "interim_spend")

Name = tuple[Any, ...]


class Standing:
    """Leases of one epoch that were reported and not closed; one thread at a time."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._numbers: dict[bytes, int] = {}
        self._reports: dict[Name, tuple[bytes, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._reports)

    def note(self, seq: int, key: bytes, value: bytes) -> None:
        """Take a record of the log."""
        if seq != UNNUMBERED:
            self._numbers[key] = max(seq, self._numbers.get(key, 0))
        elif value:
            self._report(key, value)

    def _report(self, key: bytes, value: bytes) -> None:
        try:
            kind, report = decode(value)
        except WireError:
            return
        # An emitter also closes leases in the name of its predecessors: they are not its own.
        if kind != "HolderReport" or report["source_epoch"] != self._epoch:
            return
        name = (report["policy_id"], *report["budget_ids"], report["scope"], report["period"], key)
        if report["closing"] or not any(map(report.get, _HELD)):
            # Nothing would be presumed spent of it.
            self._reports.pop(name, None)
        else:
            self._reports[name] = (key, value)

    def closings(self) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
        """Key and HolderReport that close each lease, once everything before was delivered."""
        # A successor does not know what was spent after the last report.
        nothing = {"wants": 0, "in_flight_reserved": 0, "interim_spend": 0, "committed": None,
                   "closing": True}  # fmt: skip
        for key, value in self._reports.values():
            yield key, decode(value)[1] | nothing | {"last_seq": self._last_seq(key)}

    def _last_seq(self, key: bytes) -> int:
        return sum(self._numbers.values()) if key == ACROSS else self._numbers.get(key, 0)

    def packed(self) -> bytes:
        """Everything as frames, for the file."""
        keys = {key for key, _ in self._reports.values()}
        if ACROSS in keys:
            # Each by itself: the records still in the log may raise any of them.
            keys |= self._numbers.keys()
        numbers = (pack(self._numbers[key], key, b"") for key in keys if key in self._numbers)
        reports = (pack(UNNUMBERED, key, value) for key, value in self._reports.values())
        return b"".join((*numbers, *reports))

    @classmethod
    def load(cls, folder: Path, records: Iterable[Frame]) -> Standing:
        """What stands in the folder of an epoch whose log has these records."""
        standing = cls(folder.name)
        path = folder / STANDING_NAME
        kept = frames(path.read_bytes(), Damage()) if path.exists() else ()
        for frame in (*kept, *records):
            standing.note(frame.seq, frame.key, frame.value)
        return standing


def write_standing(folder: Path, packed: bytes) -> None:
    """Replace the file whole; OSError where it cannot be written."""
    path = folder / STANDING_NAME
    if not packed:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, FILE_MODE)
    try:
        os.write(fd, packed)
    finally:
        os.close(fd)
    fresh.replace(path)
