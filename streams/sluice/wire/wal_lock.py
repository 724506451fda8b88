"""Ownership of a folder: one process at a time, until it ends, and never a forked child.

A lock belongs to an open file, which a forked child inherits; it would hold the lock beyond its
parent's end. So a child closes the locks of its parent at once.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

LOCK_NAME = "lock"
FILE_MODE = 0o600

_held: set[int] = set()
# No fork comes between the opening of a lock and its entry in `_held`.
_forking = threading.Lock()


def hold(folder: Path) -> int | None:
    """Lock a folder and return what `release` takes; None if another one has it or it is gone."""
    with _forking:
        try:
            lock = os.open(folder / LOCK_NAME, os.O_CREAT | os.O_RDWR, FILE_MODE)
        except OSError:
            return None
        if _take(lock, folder):
            _held.add(lock)
            return lock
        os.close(lock)
        return None


def _take(lock: int, folder: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A former owner may have removed the file after it was opened here.
        return (folder / LOCK_NAME).stat().st_ino == os.fstat(lock).st_ino
    except OSError:
        return False


def release(lock: int) -> None:
    """Let others have the folder; nothing happens to a lock that a fork has closed."""
    if lock in _held:
        _held.discard(lock)
        os.close(lock)


def _in_child() -> None:
    # Closing a copy does not unlock: the parent keeps what it has.
    for lock in _held:
        os.close(lock)
    _held.clear()
    _forking.release()


os.register_at_fork(
    before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_in_child
)
