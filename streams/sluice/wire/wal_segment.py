"""One file of a write-ahead log: appended to, read back, acknowledged record by record."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sluice.wire.wal_frames import Damage, Frame, frames
from sluice.wire.wal_lock import FILE_MODE

_TITLE = "sluice-wal 1 "
# Longer than any title: a topic name has at most 249 characters.
_TITLE_LIMIT_BYTES = 512


class Tail(NamedTuple):
    """How far a file is written: its end in bytes, its records."""

    end: int
    records: int


class Segment:
    """A file `NNNN.wal` and the acknowledgements of its records, kept beside it in `NNNN.ack`.

    One thread may append until it sets `sealed`, while another one calls everything else.
    """

    def __init__(self, path: Path, start: int, fd: int | None = None) -> None:
        self.path = path
        self.number = int(path.stem)
        self.start = start
        # One assignment moves it, so neither a thread nor a signal sees half of an append.
        self.tail = Tail(start, 0)
        self.sealed = fd is None
        self.acknowledged = 0
        self.damage = Damage()
        self._fd = fd
        self._flags = bytearray()
        self._saved = 0
        self._aged = 0
        self._synced_end = 0
        self._named = False

    @classmethod
    def create(cls, path: Path, topic: str) -> Segment:
        """Make an empty file for records of `topic`, open for appending; OSError if it cannot."""
        title = f"{_TITLE}{topic}\n".encode()
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
        segment = cls(path, len(title), fd)
        try:
            _write(fd, title, 0)
        except OSError:
            segment.delete()
            raise
        return segment

    @classmethod
    def load(cls, path: Path) -> Segment:
        """Read a file that a former process left: its records, its damage, its acknowledgements."""
        content = path.read_bytes()
        segment = cls(path, _title_end(content))
        found = frames(content[segment.start :], segment.damage)
        segment.tail = Tail(len(content), sum(1 for _ in found))
        segment._load_acknowledgements()
        return segment

    def append(self, frame: bytes, *, durable: bool = False) -> None:
        """Add one frame with one write, `durable`: and wait for the disk; OSError adds nothing."""
        fd, (end, records) = self._fd, self.tail
        if fd is None:
            raise OSError(f"{self.path} is closed")
        try:
            # At a place of its own: whatever an interrupted call left there is written over.
            _write(fd, frame, end)
            if durable:
                self._force(fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, end)
            raise
        self.tail = Tail(end + len(frame), records + 1)

    def read(self, offset: int, ordinal: int, end: int) -> Iterator[Frame]:
        """Records from `offset`, where the `ordinal`th begins, up to `end`."""
        size = end - offset
        if self._fd is not None:
            buffer = os.pread(self._fd, size, offset)
        else:
            with self.path.open("rb") as file:
                file.seek(offset)
                buffer = file.read(size)
        return frames(buffer, Damage(), base=offset, ordinal=ordinal)

    def read_all(self) -> Iterator[Frame]:
        """Every record of the file."""
        return self.read(self.start, 0, self.tail.end)

    @property
    def pending(self) -> int:
        """Records not yet acknowledged."""
        return self.tail.records - self.acknowledged

    def is_acknowledged(self, ordinal: int) -> bool:
        """Whether a record was marked as delivered."""
        return ordinal < len(self._flags) and self._flags[ordinal] == 1

    def acknowledge(self, ordinal: int) -> bool:
        """Mark a record as delivered; False if it was already."""
        if self.is_acknowledged(ordinal):
            return False
        if ordinal >= len(self._flags):
            self._flags.extend(bytes(self.tail.records - len(self._flags)))
        self._flags[ordinal] = 1
        self.acknowledged += 1
        return True

    def save_acknowledgements(self) -> None:
        """Write down what was acknowledged since the last call; a successor resends only the rest.

        The file replaces the former one whole and needs no fsync: an old one costs a resend.
        """
        if self.acknowledged == self._saved:
            return
        fresh = self._ack_path.with_suffix(".ack.new")
        fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, FILE_MODE)
        try:
            _write(fd, zlib.compress(bytes(self._flags), 1), 0)
        finally:
            os.close(fd)
        fresh.replace(self._ack_path)
        self._saved = self.acknowledged

    def _load_acknowledgements(self) -> None:
        # Places of records are not certain behind an unreadable stretch: better send all again.
        if self.damage.stretches:
            return
        with suppress(FileNotFoundError, zlib.error):
            flags = zlib.decompress(self._ack_path.read_bytes())
            self._flags = bytearray(flags[: self.tail.records])
            self.acknowledged = self._saved = self._flags.count(1)

    def sync_aged(self) -> None:
        """Force to disk what was there at the last call already and is not acknowledged."""
        aged, self._aged = self._aged, self.tail.records
        if self._synced_end < self.tail.end and self._flags.count(1, 0, aged) < aged:
            self.sync()

    def sync(self) -> None:
        """Force all records to disk."""
        end = self.tail.end
        fd = os.open(self.path, os.O_RDONLY) if self._fd is None else self._fd
        try:
            self._force(fd)
        finally:
            if fd != self._fd:
                os.close(fd)
        self._synced_end = end

    def _force(self, fd: int) -> None:
        os.fdatasync(fd)
        if not self._named:
            sync_folder(self.path.parent)
            self._named = True

    def close(self) -> None:
        """Append no more; reading stays possible."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def delete(self) -> None:
        """Remove the file and what is known about it."""
        self.close()
        for path in (self.path, self._ack_path, self._ack_path.with_suffix(".ack.new")):
            path.unlink(missing_ok=True)

    @property
    def _ack_path(self) -> Path:
        return self.path.with_suffix(".ack")


def topic_of(path: Path) -> str | None:
    """Topic of a segment file as its title says; None when the title is unreadable."""
    with path.open("rb") as file:
        content = file.read(_TITLE_LIMIT_BYTES)
    title = content[: _title_end(content)].decode(errors="replace")
    return title[len(_TITLE) : -1] if title else None


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _title_end(content: bytes) -> int:
    line_end = content.find(b"\n", 0, _TITLE_LIMIT_BYTES)
    return line_end + 1 if content.startswith(_TITLE.encode()) and line_end > 0 else 0


def _write(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    # A regular file takes less than all only when its disk or quota ends here.
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)
