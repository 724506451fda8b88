"""The emitter's write-ahead log: what was emitted stays here until Kafka acknowledged it.

`<wal_dir>/<source>/<epoch>/NNNN.wal` hold the records of one source_epoch in their order (see
wal_standing.py for what else is there). Whoever
has the folder's `lock` owns the log; the lock ends with its process, however that ends, and any
later emitter on the same `wal_dir` and topic takes the log over. The folder must be on a local
disk of a POSIX system: network file systems keep no such promise about locks.

A record is in the page cache when `append` returns, so it survives the end of the process, kill -9
included. Loss of power is the business of the fsync policy:

- always    `append` waits for the disk; nothing that was emitted is lost.
- interval  what Kafka has not acknowledged goes to disk within the interval; at most the events of
            the last interval are lost. While Kafka answers faster than that, no fsync is needed.
- never     the operating system decides, usually within 30 s.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sluice.errors import OutsideError
from sluice.wire.wal_cursor import Cursor
from sluice.wire.wal_frames import Damage, Frame, pack
from sluice.wire.wal_lock import FILE_MODE, LOCK_NAME, hold, release
from sluice.wire.wal_segment import Segment, sync_folder, topic_of
from sluice.wire.wal_standing import STANDING_NAME, Standing, write_standing

Fsync = Literal["always", "interval", "never"]

FOLDER_MODE = 0o700
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_FOLDER_NAME = 64
MAX_REFUSED_BYTES = 16 * 2**20


class SpoolFull(OutsideError):
    """The write-ahead log has no room: Kafka is away or slow, or the disk is full.

    The event was not taken and has no number; the same call may succeed later.
    """


class Log:
    """Write-ahead log of one source_epoch, owned by this process.

    The emitting thread calls `append`; every other method is the sending thread's. The caller
    holds a lock of his around `append` and `detach_finished`.
    """

    def __init__(self, folder: Path, lock: int, segments: list[Segment], *, topic: str = "",
                 segment_bytes: int = 0, durable: bool = False,
                 standing: Standing | None = None) -> None:  # fmt: skip
        self.folder = folder
        self.standing = Standing(folder.name) if standing is None else standing
        self.segments = segments
        self.cursor = Cursor(segments)
        self._lock = lock
        self._topic = topic
        self._segment_bytes = segment_bytes
        self._durable = durable
        self._sealed_bytes = sum(s.tail.end for s in segments if s.sealed)

    @classmethod
    def create(cls, parent: Path, topic: str, segment_bytes: int, fsync: Fsync,
               new_epoch: Callable[[], str]) -> Log:  # fmt: skip
        """A log of a new epoch below `parent`; OutsideError or SpoolFull if it cannot be made."""
        try:
            folder, lock = _new_folder(parent, new_epoch)
            segments = [Segment.create(folder / "0001.wal", topic)]
            if fsync != "never":
                sync_folder(parent)
        except OSError as error:
            raise outside(error) from error
        return cls(folder, lock, segments, topic=topic, segment_bytes=segment_bytes,
                   durable=fsync == "always")  # fmt: skip

    @property
    def epoch(self) -> str:
        """The source_epoch whose records these are."""
        return self.folder.name

    def append(self, seq: int, key: bytes, value: bytes, limit_bytes: int) -> None:
        """Keep one record.

        Raises SpoolFull when the log would exceed `limit_bytes` or the disk is full, OutsideError
        for other refusals of the file system; nothing of the record is kept then.
        """
        frame = pack(seq, key, value)
        live = self.segments[-1]
        try:
            if live.tail.records and live.tail.end + len(frame) > self._segment_bytes:
                live = self._rotate(live)
            if self.bytes + len(frame) > limit_bytes:
                raise SpoolFull(
                    f"write-ahead log {self.folder} is full: {self.bytes} of {limit_bytes} bytes; "
                    "wait until Kafka acknowledges, or raise wal_max_bytes"
                )
            live.append(frame, durable=self._durable)
        except OSError as error:
            raise outside(error) from error
        self.standing.note(seq, key, value)

    def save_standing(self, packed: bytes) -> None:
        """Keep what stands, before files that tell it are deleted; OSError where it cannot be."""
        write_standing(self.folder, packed)

    def _rotate(self, live: Segment) -> Segment:
        fresh = Segment.create(self.folder / f"{live.number + 1:04d}.wal", self._topic)
        self.segments.append(fresh)
        self._sealed_bytes += live.tail.end
        live.sealed = True
        return fresh

    @property
    def bytes(self) -> int:
        """Bytes in the log's files, acknowledged ones included while their file lives."""
        live = self.segments[-1] if self.segments else None
        return self._sealed_bytes + (live.tail.end if live is not None and not live.sealed else 0)

    @property
    def pending(self) -> int:
        """Records that Kafka has not acknowledged."""
        return sum(segment.pending for segment in list(self.segments))

    @property
    def damage(self) -> Damage:
        """What could not be read when the log was taken over."""
        return sum((segment.damage for segment in self.segments), Damage())

    @property
    def has_finished(self) -> bool:
        """Whether the oldest file can be deleted."""
        oldest = self.segments[0]
        return oldest.sealed and oldest.pending == 0

    def detach_finished(self) -> list[Segment]:
        """Take sealed files without pending records out of the log; the caller deletes them."""
        finished = [s for s in self.segments if s.sealed and s.pending == 0]
        for segment in finished:
            self.segments.remove(segment)
            self._sealed_bytes -= segment.tail.end
        return finished

    def sync_aged(self) -> None:
        """Force to disk what was there at the last call already and is not acknowledged."""
        for segment in list(self.segments):
            segment.sync_aged()

    def save_acknowledgements(self) -> None:
        """Write down what was acknowledged, and close files that only wait for the rest."""
        for segment in list(self.segments):
            segment.save_acknowledgements()
            if segment.sealed:
                segment.close()

    def close(self) -> None:
        """Give the log up: delete it when nothing is pending, else leave it to a successor.

        A lease that nobody closed is left to a successor too.
        """
        finished = self.pending == 0 and not self.standing
        with suppress(OSError):
            self.save_standing(self.standing.packed())
            for segment in self.segments:
                if finished:
                    segment.delete()
                else:
                    segment.save_acknowledgements()
                    segment.close()
        if finished:
            _remove_folder(self.folder)
        release(self._lock)

    def abandon(self) -> None:
        """Close a forked child's copies of the descriptors; the log remains the parent's."""
        for segment in self.segments:
            segment.close()
        release(self._lock)


def orphans(wal_dir: Path, topic: str) -> Iterator[Log]:
    """Take over every log below `wal_dir` that no process holds and that is for `topic`.

    Oldest first; folders without records are removed on the way. What the file system refuses is
    left alone.
    """
    for folder in sorted(wal_dir.glob("*/*/"), key=_made_at):
        lock = hold(folder)
        if lock is None:
            continue
        log = _load(folder, lock, topic)
        if log is None:
            release(lock)
        else:
            yield log


def _load(folder: Path, lock: int, topic: str) -> Log | None:
    try:
        paths = sorted(folder.glob("*.wal"), key=lambda path: int(path.stem))
        if any(topic_of(path) not in {None, topic} for path in paths):
            return None
        if paths or (folder / STANDING_NAME).exists():
            segments = [Segment.load(path) for path in paths]
            records = (frame for segment in segments for frame in segment.read_all())
            return Log(folder, lock, segments, standing=Standing.load(folder, records))
    except (OSError, ValueError):
        return None
    _remove_folder(folder)
    return None


def _new_folder(parent: Path, new_epoch: Callable[[], str]) -> tuple[Path, int]:
    parent.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    parent.mkdir(FOLDER_MODE, exist_ok=True)
    while True:
        folder = parent / new_epoch()
        folder.mkdir(FOLDER_MODE)
        lock = hold(folder)
        # None: another emitter took the folder for an orphan before it was locked.
        if lock is not None:
            return folder, lock


def _made_at(folder: Path) -> float:
    try:
        return (folder / LOCK_NAME).stat().st_mtime
    except OSError:
        return 0.0


def _remove_folder(folder: Path) -> None:
    (folder / STANDING_NAME).unlink(missing_ok=True)
    (folder / LOCK_NAME).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def source_folder(wal_dir: Path, source: str) -> Path:
    """Folder of a source; names that no folder can have are changed, the epoch tells them apart."""
    return wal_dir / (re.sub(r"[^A-Za-z0-9_-]", "_", source)[:_MAX_FOLDER_NAME] or "_")


def keep_refused(parent: Path, frame: Frame) -> None:
    """Add a record that Kafka will never take to `refused.wal` of its source, for people.

    Beyond MAX_REFUSED_BYTES it is only counted. OSError when it cannot be written.
    """
    path = parent / "refused.wal"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, FILE_MODE)
    try:
        if os.fstat(fd).st_size < MAX_REFUSED_BYTES:
            os.write(fd, pack(frame.seq, frame.key, frame.value))
    finally:
        os.close(fd)


def outside(error: OSError) -> OutsideError:
    """An error of the file system in the words of this package."""
    if error.errno in _NO_SPACE:
        return SpoolFull(f"no space left for the write-ahead log: {error}; free some disk space")
    return OutsideError(f"the write-ahead log cannot be written: {error}; check wal_dir")
