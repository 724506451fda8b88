"""Records as they stand in a write-ahead log file, and what can be saved of a damaged one.

A frame is `sync | crc | length | seq | key length | key | value`, integers little-endian: 4 bytes
that mark its beginning, CRC-32 of everything after itself, bytes of key and value together, the
record's number under its key, bytes of the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple
from zlib import crc32

# 0xff stands in no UTF-8 text, so a text in a value cannot pass for a record.
SYNC = b"\xffSL\x17"
_CRC = Struct("<I")
_FIELDS = Struct("<IQH")
_BODY = len(SYNC) + _CRC.size
HEADER_BYTES = _BODY + _FIELDS.size
MAX_KEY_BYTES = 2**16 - 1


class Frame(NamedTuple):
    """One record: its place in the file (`ordinal` from 0, `end` in bytes) and its content."""

    ordinal: int
    end: int
    seq: int
    key: bytes
    value: bytes


@dataclass(slots=True)
class Damage:
    """What a file lost: unreadable stretches with records after them, and bytes at its end."""

    stretches: int = 0
    skipped_bytes: int = 0
    torn_bytes: int = 0

    def __add__(self, other: Damage) -> Damage:
        return Damage(
            self.stretches + other.stretches,
            self.skipped_bytes + other.skipped_bytes,
            self.torn_bytes + other.torn_bytes,
        )


def pack(seq: int, key: bytes, value: bytes) -> bytes:
    """A record as a frame; `seq` fits 64 bits, `key` MAX_KEY_BYTES."""
    body = _FIELDS.pack(len(key) + len(value), seq, len(key)) + key + value
    return SYNC + _CRC.pack(crc32(body)) + body


def frames(buffer: bytes, damage: Damage, *, base: int = 0, ordinal: int = 0) -> Iterator[Frame]:
    """Every sound record of a file's bytes from offset `base` on, where its `ordinal`th begins.

    A record is taken only with a matching CRC. Behind an unsound stretch reading goes on at the
    next sound record; where none follows, the rest is a torn end. Both are added to `damage`.
    """
    at = 0
    while at < len(buffer):
        frame = _frame_at(buffer, at, base, ordinal)
        if frame is None:
            sound = _next_sound(buffer, at + 1)
            _note(damage, at, sound, len(buffer))
            at = sound
            continue
        yield frame
        at, ordinal = frame.end - base, ordinal + 1


def _frame_at(buffer: bytes, at: int, base: int, ordinal: int) -> Frame | None:
    head = at + HEADER_BYTES
    if head > len(buffer) or buffer[at : at + len(SYNC)] != SYNC:
        return None
    length, seq, key_length = _FIELDS.unpack_from(buffer, at + _BODY)
    end = head + length
    if end > len(buffer) or key_length > length:
        return None
    if crc32(buffer[at + _BODY : end]) != _CRC.unpack_from(buffer, at + len(SYNC))[0]:
        return None
    split = head + key_length
    return Frame(ordinal, base + end, seq, buffer[head:split], buffer[split:end])


def _next_sound(buffer: bytes, at: int) -> int:
    while (at := buffer.find(SYNC, at)) >= 0:
        if _frame_at(buffer, at, 0, 0) is not None:
            return at
        at += 1
    return len(buffer)


def _note(damage: Damage, at: int, sound: int, size: int) -> None:
    if sound == size:
        damage.torn_bytes += size - at
    else:
        damage.stretches += 1
        damage.skipped_bytes += sound - at
