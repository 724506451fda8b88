"""What a gateway did, on file before it does the next thing: the count before the emitter.

Three kinds of lines: {"intent": n, facts} before request n's event is emitted, {"done": n} once
the emitter accepted it, {"refused": n, facts} where admission refused it. Each is one write(), so a
kill of the process loses no line that was written.

Exactness under a kill: the successor plays only requests that the ledger does not name. An intent
without a done was accepted by the emitter or not. The successor's emitter first takes over the log
that the dead one left and sends all of it; from then on every accepted event is on the usage topic.
The event_id derives from the run and n, so the successor looks for it there, and emits the event
only where it is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import NAMESPACE_URL, uuid5


def event_id(run_id: str, number: int) -> str:
    """The id of request `number`'s usage event in a run."""
    return str(uuid5(NAMESPACE_URL, f"sluice:replay:{run_id}:{number}"))


class Ledger:
    """Append-only file of one gateway slot."""

    def __init__(self, path: Path) -> None:
        self._intents: dict[int, dict[str, Any]] = {}
        self._done: set[int] = set()
        self._refused: set[int] = set()
        for line in read_lines(path):
            self._note(line)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # A kill may have cut the last line; it must not swallow the next one.
        os.write(self._file, b"\n")

    def intent(self, number: int, facts: dict[str, Any]) -> None:
        """Request `number` is about to be emitted with these facts."""
        self._append({"intent": number, **facts})

    def accept(self, number: int) -> None:
        """The emitter accepted request `number`."""
        self._append({"done": number})

    def refuse(self, number: int, facts: dict[str, Any]) -> None:
        """Admission refused request `number`."""
        self._append({"refused": number, **facts})

    def open_intents(self) -> dict[int, dict[str, Any]]:
        """Intents that nobody confirmed, with their facts."""
        open_ = sorted(self._intents.keys() - self._done)
        return {number: self._intents[number] for number in open_}

    def left(self, numbers: Collection[int]) -> list[int]:
        """Those of `numbers` that the ledger does not name yet."""
        return [n for n in numbers if n not in self._intents and n not in self._refused]

    def was_refused(self, number: int) -> bool:
        """Whether admission refused request `number`."""
        return number in self._refused

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        os.close(self._file)

    def _append(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        self._note(line)

    def _note(self, line: dict[str, Any]) -> None:
        if "intent" in line:
            facts = {name: value for name, value in line.items() if name != "intent"}
            self._intents[line["intent"]] = facts
        elif "done" in line:
            self._done.add(line["done"])
        elif "refused" in line:
            self._refused.add(line["refused"])


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a ledger; a cut one is left out."""
    if path.exists():
        with path.open("rb") as file:
            yield from map(json.loads, filter(_whole, file))


class LedgerTail:
    """Counts of a growing ledger, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.done = self.refused = 0

    def look(self) -> None:
        """Count the lines that came since the last look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for text in file:
                if not text.endswith(b"\n"):
                    return
                self._position += len(text)
                line = json.loads(text) if _whole(text) else {}
                self.done += "done" in line
                self.refused += "refused" in line


def _whole(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
