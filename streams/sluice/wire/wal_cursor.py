"""Reading a write-ahead log in the order of its records while it grows."""

from __future__ import annotations

from collections.abc import Iterator

from sluice.wire.wal_frames import Frame
from sluice.wire.wal_segment import Segment


class Cursor:
    """Place in a list of segments; gives each record that is not acknowledged yet."""

    segment: Segment
    _ahead: Frame | None
    _frames: Iterator[Frame]

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._furthest = (0, -1)
        self._enter(segments[0])

    def rewind(self) -> None:
        """Go back to the oldest record that is still in the log."""
        self._enter(self._segments[0])

    def peek(self) -> Frame | None:
        """The next record to send, None where the log ends at present."""
        while self._ahead is None and (frame := self._next_frame()) is not None:
            if self.segment.is_acknowledged(frame.ordinal):
                self._pass(frame)
            else:
                self._ahead = frame
        return self._ahead

    def advance(self) -> bool:
        """Leave the record that `peek` gave; whether it was left before, thus is sent again."""
        frame = self._ahead
        if frame is None:
            return False
        self._pass(frame)
        place = (self.segment.number, frame.ordinal)
        again = place <= self._furthest
        self._furthest = max(self._furthest, place)
        return again

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the log that were not read yet."""
        segments = list(self._segments)
        behind = sum(s.tail.end - s.start for s in segments if s.number > self.segment.number)
        return behind + max(0, self.segment.tail.end - self._offset)

    def _enter(self, segment: Segment) -> None:
        self.segment = segment
        self._offset = self._read_end = segment.start
        self._ordinal = 0
        self._ahead = None
        self._frames = iter(())

    def _pass(self, frame: Frame) -> None:
        self._offset, self._ordinal = frame.end, frame.ordinal + 1
        self._ahead = None

    def _next_frame(self) -> Frame | None:
        while (frame := next(self._frames, None)) is None:
            if not self._read_on():
                return None
        return frame

    def _read_on(self) -> bool:
        # Asked first: what is appended after the question makes only the answer too cautious.
        segment, sealed = self.segment, self.segment.sealed
        self._offset = self._read_end
        if self._offset < segment.tail.end and not (sealed and segment.pending == 0):
            self._read_end = segment.tail.end
            self._frames = segment.read(self._offset, self._ordinal, self._read_end)
            return True
        following = [s for s in self._segments if s.number > segment.number]
        if sealed and following:
            self._enter(following[0])
            return True
        return False
