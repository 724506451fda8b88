"""Where the meter's CPU goes: `python tests/bench/profile_meter.py [EVENTS] [PROFILE] [across]`.

One partition applies chunks of the benchmark's workload and hands over a checkpoint after each, in
this process, without Kafka. Prints events per CPU second without the profiler, the seconds of each
stage, then the functions that took most of the time under the profiler (which slows small ones
most, so read its shares, not its seconds). With `across` a budget of all tenants is in force, too.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from sluice.bench.drain import ROOMY_POLICY
from sluice.bench.workload import Mix, Profile, make
from sluice.enforcement.policy_file import load_policy
from sluice.metering.prices import default_book
from sluice.runtime.partition import Partition
from sluice.runtime.state import State
from sluice.runtime.warm import warm_up
from sluice.runtime.worker import rest_collector
from sluice.wire.codec import encode
from sluice.wire.topics import Topics

CHUNK = 10_000
HOUR_US = 3_600_000_000
# As fast as a meter that takes what it is given: broker time passes this slowly per event.
BROKER_US = 10
ACROSS = """
  - budget_id: all-month
    scope: []
    unit: usd
    limit: "5000000"
    period: month
    rules:
      - {rule_id: stop, at: 100%, action: block}
"""


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class References:
    def __init__(self, *, across: bool) -> None:
        text = ROOMY_POLICY + ACROSS if across else ROOMY_POLICY
        book, policy = default_book(), load_policy(text, "bench")
        self.held: dict[tuple[str, str, str], Any] = {
            ("price_book", book.book_id, book.version): book,
            ("policy", policy.policy_id, policy.version): policy,
        }

    def get(self, name: tuple[str, str, str]) -> Any:
        return self.held.get(name)

    def is_faulty(self, name: tuple[str, str, str]) -> bool:
        return False


def chunks(events: int, profile: Profile, *, across: bool) -> tuple[References, list[list[Record]]]:
    """Records of one partition in chunks, the activations first."""
    references, now = References(across=across), time.time_ns() // 1000
    work = make(Mix(events, profile))
    first = now - int(work.occurred_at(0).max())
    values = [(None, encode("Activate", dict(zip(("kind", "id", "version"), name, strict=True))))
              for name in references.held]  # fmt: skip
    values += list(work.records(work.occurred_at(first)))
    records = [
        Record(n, (now + n * BROKER_US) // 1000, key, value)
        for n, (key, value) in enumerate(values)
    ]
    return references, [records[at : at + CHUNK] for at in range(0, len(records), CHUNK)]


def passes(references: References, given: list[list[Record]]) -> tuple[dict[str, float], int]:
    """CPU seconds of applying and of handing over, and how many records were handed over."""
    partition = Partition(Topics("bench.", 4), 0, State(HOUR_US, HOUR_US), references, epoch=1)
    clock: Callable[[], float] = time.process_time
    stages, out = {"apply": 0.0, "take": 0.0}, 0
    for records in given:
        begun = clock()
        partition.apply(records)
        applied = clock()
        out += len(partition.take())
        stages["apply"] += applied - begun
        stages["take"] += clock() - applied
    return stages, out


def main() -> None:
    """Measure without the profiler, then with it."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    profile: Profile = "ledger" if "ledger" in sys.argv[2:] else "full"
    references, given = chunks(events, profile, across="across" in sys.argv)
    warm_up()
    rest_collector()
    stages, out = passes(references, given)
    rate = round(events / sum(stages.values()))
    shown = {name: round(seconds, 3) for name, seconds in stages.items()}
    told = {"events": events, "profile": profile, "per_cpu_s": rate, "records": out}
    print(json.dumps(told | shown))
    profiler = cProfile.Profile()
    profiler.runcall(passes, references, given)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
