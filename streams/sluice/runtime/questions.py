"""Questions to usage partitions: whether they hold more usage of a process that is over."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Producer

from sluice.runtime.across import Across
from sluice.wire.codec import encode

# A partition without an owner answers late, and every question stays in its log.
_AGAIN_S = 5.0
_AGAIN_AT_MOST_S = 320.0

_Name = tuple[Any, ...]


class Questions:
    """Asks until each partition has answered; what was asked is not stored, so a successor asks."""

    def __init__(self, usage: str, producer: Producer) -> None:
        self._usage = usage
        self._producer = producer
        self._asked: dict[_Name, tuple[float, float]] = {}  # when to ask again, and how much later

    def ask(self, across: Across) -> int:
        """Append the HolderReports that are due to their usage partitions; how many."""
        now, before, asked = time.monotonic(), self._asked, 0
        self._asked = {}
        for number, question in across.closing_questions():
            name = (number, *(str(value) for value in question.values()))
            due, wait_s = before.get(name, (now, _AGAIN_S))
            if due <= now:
                value = encode("HolderReport", question)
                self._producer.produce(self._usage, value, b"", number)
                due, wait_s, asked = now + wait_s, min(2 * wait_s, _AGAIN_AT_MOST_S), asked + 1
            self._asked[name] = due, wait_s
        self._producer.poll(0)
        return asked
