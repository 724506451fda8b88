"""The write-ahead log: what is kept, what a successor finds, what is deleted and when."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sluice.errors import OutsideError
from sluice.wire import wal_segment
from sluice.wire.wal import Fsync, Log, SpoolFull, keep_refused, orphans, source_folder
from sluice.wire.wal_frames import Damage, frames, pack

ROOMY = 2**30
VALUE = b"v" * 100


def new_log(wal_dir: Path, *, segment_bytes: int = 400, fsync: Fsync = "never",
            topic: str = "usage") -> Log:  # fmt: skip
    """A log of a random epoch; its segments hold three records of VALUE."""
    parent = source_folder(wal_dir, "gw")
    return Log.create(parent, topic, segment_bytes, fsync, lambda: os.urandom(4).hex())


def fill(log: Log, count: int, *, limit_bytes: int = ROOMY) -> None:
    """Append records numbered from 1 under one key."""
    for seq in range(1, count + 1):
        log.append(seq, b"acme", VALUE, limit_bytes)


def rest(log: Log) -> list[int]:
    """Numbers of the records still to be sent, in their order."""
    found = []
    while (frame := log.cursor.peek()) is not None:
        found.append(frame.seq)
        log.cursor.advance()
    return found


def acknowledge(log: Log, *wanted: int) -> None:
    """Mark records as delivered by their numbers."""
    for segment in log.segments:
        for frame in segment.read(segment.start, 0, segment.tail.end):
            if frame.seq in wanted:
                segment.acknowledge(frame.ordinal)


def crash(log: Log) -> None:
    """What the end of a process does to its log: descriptors close, nothing else happens."""
    log.abandon()


def only_orphan(wal_dir: Path, topic: str = "usage") -> Log:
    """The single log that waits for a successor."""
    (log,) = orphans(wal_dir, topic)
    return log


def spoil(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def failing(code: int, after: int) -> Callable[..., int]:
    """A pwrite that takes `after` bytes of what it gets and then fails."""
    real, left = os.pwrite, [after]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        taken, left[0] = left[0], 0
        return real(fd, data[:taken], offset)

    return pwrite


def test_a_successor_finds_every_record_in_order(tmp_path: Path) -> None:
    """Records that span several files come back whole and in order after a crash."""
    log = new_log(tmp_path)
    fill(log, 10)
    assert len(log.segments) == 4
    crash(log)
    successor = only_orphan(tmp_path)
    assert (successor.epoch, successor.pending) == (log.epoch, 10)
    frame = successor.cursor.peek()
    assert frame is not None
    assert (frame.seq, frame.key, frame.value) == (1, b"acme", VALUE)
    assert rest(successor) == list(range(1, 11))
    assert successor.damage == Damage()


def test_a_reader_follows_a_log_that_grows(tmp_path: Path) -> None:
    """The cursor gives what is appended after it reached the end, also in the next file."""
    log = new_log(tmp_path)
    assert rest(log) == []
    for seq in range(1, 8):
        log.append(seq, b"acme", VALUE, ROOMY)
        assert rest(log) == [seq]
    log.cursor.rewind()
    assert rest(log) == list(range(1, 8))


def test_advance_tells_what_was_sent_before(tmp_path: Path) -> None:
    """After a rewind exactly the records that were passed before count as sent again."""
    log = new_log(tmp_path)
    fill(log, 5)
    first = [log.cursor.peek() and log.cursor.advance() for _ in range(4)]
    log.cursor.rewind()
    again = [log.cursor.peek() and log.cursor.advance() for _ in range(5)]
    assert (first, again) == ([False] * 4, [True] * 4 + [False])
    assert log.cursor.unsent_bytes == 0


def test_a_file_is_deleted_when_all_its_records_are_delivered(tmp_path: Path) -> None:
    """Acknowledgements in any order free a sealed file at the last of them, not before."""
    log = new_log(tmp_path)
    fill(log, 7)
    acknowledge(log, 3, 1, 5)
    assert log.detach_finished() == []
    before = log.bytes
    acknowledge(log, 2)
    (finished,) = log.detach_finished()
    finished.delete()
    assert [path.name for path in sorted(log.folder.glob("*.wal"))] == ["0002.wal", "0003.wal"]
    assert log.bytes == before - finished.tail.end
    assert log.bytes == sum(path.stat().st_size for path in log.folder.glob("*.wal"))
    assert rest(log) == [4, 6, 7]


def test_a_full_log_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Beyond its limit nothing is taken; delivered files make room again."""
    log = new_log(tmp_path)
    with pytest.raises(SpoolFull, match="wal_max_bytes"):
        fill(log, 100, limit_bytes=1000)
    assert log.bytes <= 1000
    kept = log.pending
    assert rest(log) == list(range(1, kept + 1))
    acknowledge(log, *range(1, kept + 1))
    log.detach_finished()
    log.append(kept + 1, b"acme", VALUE, 1000)


def test_a_full_log_whose_records_are_all_delivered_takes_more(tmp_path: Path) -> None:
    """One large record must not block the log for ever once Kafka has it."""
    log = new_log(tmp_path)
    log.append(1, b"acme", bytes(900), 1000)
    acknowledge(log, 1)
    with pytest.raises(SpoolFull):
        log.append(2, b"acme", bytes(900), 1000)
    assert log.has_finished
    assert len(log.detach_finished()) == 1
    assert not log.has_finished
    log.append(2, b"acme", bytes(900), 1000)


@pytest.mark.parametrize("taken", [0, 1, 40, 121])
def test_a_full_disk_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """A write that the disk cuts short raises SpoolFull and is taken back."""
    log = new_log(tmp_path, segment_bytes=10_000)
    fill(log, 2)
    size = log.segments[0].path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC, taken))
        with pytest.raises(SpoolFull, match="no space left"):
            log.append(3, b"acme", VALUE, ROOMY)
    assert log.segments[0].path.stat().st_size == size
    log.append(3, b"acme", b"later", ROOMY)
    crash(log)
    assert rest(only_orphan(tmp_path)) == [1, 2, 3]


def test_other_refusals_of_the_file_system_are_outside_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error is no lack of room, and it names the cause."""
    log = new_log(tmp_path)
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO, 0))
    with pytest.raises(OutsideError, match="Input/output") as caught:
        log.append(1, b"acme", VALUE, ROOMY)
    assert not isinstance(caught.value, SpoolFull)


def test_a_log_that_cannot_be_made_is_an_outside_error(tmp_path: Path) -> None:
    """A wal_dir that is a file is refused with its path."""
    (tmp_path / "wal").write_text("")
    with pytest.raises(OutsideError, match="wal"):
        new_log(tmp_path / "wal")


def test_acknowledgements_survive_a_crash(tmp_path: Path) -> None:
    """A successor sends only what was not acknowledged when it was last written down."""
    log = new_log(tmp_path)
    fill(log, 8)
    acknowledge(log, 2, 3, 7)
    log.save_acknowledgements()
    acknowledge(log, 8)
    crash(log)
    successor = only_orphan(tmp_path)
    assert successor.pending == 5
    assert rest(successor) == [1, 4, 5, 6, 8]


def test_spoilt_acknowledgements_are_ignored(tmp_path: Path) -> None:
    """Where the acknowledgements cannot be trusted, every record is sent again."""
    log = new_log(tmp_path)
    fill(log, 3)
    acknowledge(log, 2)
    log.save_acknowledgements()
    crash(log)
    path = log.folder / "0001.ack"
    spoil(path, path.stat().st_size - 1, b"\xff")
    assert rest(only_orphan(tmp_path)) == [1, 2, 3]


def test_a_torn_end_is_dropped(tmp_path: Path) -> None:
    """Half a record at the end, as a kill leaves it, costs nothing before it."""
    log = new_log(tmp_path, segment_bytes=10_000)
    fill(log, 4)
    crash(log)
    path = log.segments[0].path
    os.truncate(path, path.stat().st_size - 5)
    successor = only_orphan(tmp_path)
    assert successor.damage == Damage(torn_bytes=len(pack(4, b"acme", VALUE)) - 5)
    assert (successor.pending, rest(successor)) == (3, [1, 2, 3])


def test_damage_in_the_middle_is_counted_and_the_rest_saved(tmp_path: Path) -> None:
    """Records around unreadable bytes are saved; their acknowledgements are not trusted."""
    log = new_log(tmp_path, segment_bytes=10_000)
    fill(log, 5)
    acknowledge(log, 4)
    log.save_acknowledgements()
    crash(log)
    segment, size = log.segments[0], len(pack(1, b"acme", VALUE))
    spoil(segment.path, segment.start + size + 30, b"\x00\xff")
    successor = only_orphan(tmp_path)
    assert successor.damage == Damage(stretches=1, skipped_bytes=size)
    assert rest(successor) == [1, 3, 4, 5]


def test_an_unreadable_title_costs_no_record(tmp_path: Path) -> None:
    """A file whose first bytes are gone is salvaged for whoever finds it."""
    log = new_log(tmp_path)
    fill(log, 2)
    crash(log)
    spoil(log.segments[0].path, 0, b"????")
    assert rest(only_orphan(tmp_path)) == [1, 2]


def test_a_log_in_use_is_nobodys_orphan(tmp_path: Path) -> None:
    """As long as its owner lives, a log is not taken over; afterwards exactly once."""
    log = new_log(tmp_path)
    fill(log, 1)
    assert list(orphans(tmp_path, "usage")) == []
    crash(log)
    successor = only_orphan(tmp_path)
    assert list(orphans(tmp_path, "usage")) == []
    successor.close()


def test_a_log_of_another_topic_is_left_alone(tmp_path: Path) -> None:
    """Records are sent to the topic that they were emitted to, and its emitter still finds them."""
    log = new_log(tmp_path, topic="usage")
    fill(log, 1)
    crash(log)
    assert list(orphans(tmp_path, "other")) == []
    assert rest(only_orphan(tmp_path, "usage")) == [1]


def test_a_folder_without_records_is_removed(tmp_path: Path) -> None:
    """What a process leaves that ended between its first two steps does not stay for ever."""
    folder = tmp_path / "gw" / "e1"
    folder.mkdir(parents=True)
    assert list(orphans(tmp_path, "usage")) == []
    assert not folder.exists()


def test_closing_leaves_only_what_is_pending(tmp_path: Path) -> None:
    """A delivered log disappears with its folder; a pending one waits for a successor."""
    done, pending = new_log(tmp_path), new_log(tmp_path)
    fill(done, 5)
    acknowledge(done, *range(1, 6))
    fill(pending, 2)
    acknowledge(pending, 1)
    done.close()
    pending.close()
    assert [path.name for path in (tmp_path / "gw").iterdir()] == [pending.epoch]
    assert rest(only_orphan(tmp_path)) == [2]


def test_only_its_owner_may_read_a_log(tmp_path: Path) -> None:
    """Folders have mode 0700, files 0600."""
    log = new_log(tmp_path / "wal")
    fill(log, 2)
    acknowledge(log, 1)
    log.save_acknowledgements()
    paths = [tmp_path / "wal", *(tmp_path / "wal").rglob("*")]
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in paths}
    assert modes == {(True, 0o700), (False, 0o600)}
    assert {path.name for path in paths} >= {"lock", "0001.wal", "0001.ack"}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that were forced to disk."""
    sizes: list[int] = []
    monkeypatch.setattr(
        wal_segment.os, "fdatasync", lambda fd: sizes.append(os.fstat(fd).st_size)
    )  # fmt: skip
    return sizes


def test_always_forces_each_record_to_disk(tmp_path: Path, synced: list[int]) -> None:
    """With fsync="always" a record is on disk before append returns."""
    log = new_log(tmp_path, fsync="always", segment_bytes=10_000)
    fill(log, 3)
    size, start = len(pack(1, b"acme", VALUE)), log.segments[0].start
    assert synced == [start + size, start + 2 * size, start + 3 * size]


def test_a_record_that_the_disk_refuses_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fsync fails, the record is not in the log either."""
    log = new_log(tmp_path, fsync="always")

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(wal_segment.os, "fdatasync", refuse)
        with pytest.raises(OutsideError, match="broken disk"):
            log.append(1, b"acme", VALUE, ROOMY)
    assert log.pending == 0
    crash(log)
    assert only_orphan(tmp_path).pending == 0


def test_the_interval_forces_only_old_pending_records(tmp_path: Path, synced: list[int]) -> None:
    """What Kafka acknowledged in time needs no fsync; what stays pending gets one, once."""
    log = new_log(tmp_path, fsync="interval", segment_bytes=10_000)
    fill(log, 2)
    log.sync_aged()
    acknowledge(log, 1, 2)
    log.sync_aged()
    assert synced == []
    log.append(3, b"acme", VALUE, ROOMY)
    log.sync_aged()
    assert synced == []
    log.sync_aged()
    log.sync_aged()
    assert synced == [log.segments[0].tail.end]


def test_a_refused_record_is_kept_for_people(tmp_path: Path) -> None:
    """What Kafka never takes stands in refused.wal, which does not grow without end."""
    log = new_log(tmp_path)
    fill(log, 2)
    frame = log.cursor.peek()
    assert frame is not None
    keep_refused(log.folder.parent, frame)
    keep_refused(log.folder.parent, frame)
    path = tmp_path / "gw" / "refused.wal"
    kept = list(frames(path.read_bytes(), Damage()))
    assert [(k.seq, k.key, k.value) for k in kept] == [(1, b"acme", VALUE)] * 2
    assert path.stat().st_mode & 0o777 == 0o600
    os.truncate(path, 16 * 2**20)
    keep_refused(log.folder.parent, frame)
    assert path.stat().st_size == 16 * 2**20


@pytest.mark.parametrize("source", ["../x", "a/b", "ü", ".", "x" * 300, "\x00"])
def test_any_source_gets_a_folder_below_the_wal_dir(tmp_path: Path, source: str) -> None:
    """No name of a source leads out of wal_dir or breaks the file system's rules."""
    folder = source_folder(tmp_path, source)
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve()
