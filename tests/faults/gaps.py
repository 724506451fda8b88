"""How long each partition committed nothing: read from the markers that the meters commit."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from itertools import pairwise

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from sluice.runtime.checkpoint import MARKER_KEY
from sluice.settings import Settings
from sluice.wire.kafka import consumer_config, topics


class Gaps:
    """Follows the changelog in a thread and notes when each partition committed."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = Consumer(consumer_config(settings))
        changelog = topics(settings).meter_state
        self._consumer.assign(
            [TopicPartition(changelog, number, OFFSET_END) for number in range(settings.partitions)]
        )
        self._seen: dict[int, list[float]] = defaultdict(list)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(500, 0.02):
                if message.error() is None and message.key() == MARKER_KEY:
                    self._seen[message.partition() or 0].append(time.monotonic())
        self._consumer.close()

    def longest(self, since: float) -> dict[int, float]:
        """Longest time without a commit per partition, from `since` (monotonic) to now."""
        found = {}
        for number, times in sorted(self._seen.items()):
            moments = [since, *(t for t in list(times) if t > since), time.monotonic()]
            found[number] = round(max(b - a for a, b in pairwise(moments)), 2)
        return found

    def close(self) -> None:
        """Stop following."""
        self._stopping.set()
        self._thread.join(10)
