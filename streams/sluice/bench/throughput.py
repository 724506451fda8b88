"""Events per CPU second of a meter, beside the limit of the machine and a stock Faust agent.

A profile is the kind of usage that goes through the whole meter as it is built: every event is
deduplicated, priced, labelled, summed into windows and cohorts, charged to two budgets and
checkpointed. "ledger" usage carries no tasks, latencies and SLO outcomes, "full" usage does.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sluice.bench.drain import Drain, drain, fill
from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground
from sluice.bench.workload import Mix, Profile, Workload, load
from sluice.errors import SluiceError
from sluice.local.jars import kafka_version
from sluice.wire.kafka import topics


class Reach(NamedTuple):
    """What a profile promises: events per CPU second, and percent of the limit."""

    per_cpu_s: int
    of_limit: int


REACHES: dict[Profile, Reach] = {"ledger": Reach(200_000, 30), "full": Reach(100_000, 15)}
READERS = ("compiled", "polars")
LIMIT_EVENTS = 500_000  # at least so many are measured, in passes over the topic


def run(ground: Ground, events: int, peer_events: int, seed: int, cache: Path) -> Report:
    """Measure both profiles, the limit and the peer on one broker.

    Raises SluiceError when a sum is wrong.
    """
    tell = ground.tell
    works = {p: load(Mix(events, p, seed), cache, tell) for p in REACHES}
    figures: list[Figure] = []
    details: list[dict[str, Any]] = []
    for profile, work in works.items():
        tell(f"{profile}: one meter works off {events:,} events")
        with ground.pipeline(profile) as pipeline:
            drained = drain(pipeline, work)
        limits = _limits(ground, profile, work)
        figures += _figures(profile, drained, max(limits.values()))
        figures += [Figure(f"{profile}_limit_{reader}_per_cpu_s", round(rate), "events/s")
                    for reader, rate in limits.items()]  # fmt: skip
        details.append({"profile": profile, **drained._asdict(),
                        "value_bytes": round(work.value_bytes, 1),
                        "window_rows": len(work.answer(work.occurred_at(0)))})  # fmt: skip
    figures.append(_peer(ground, works["ledger"], peer_events))
    settings = {"events": events, "peer_events": peer_events, "seed": seed, "partitions": 4,
                "kafka": kafka_version()}  # fmt: skip
    return Report("throughput", machine(), settings, figures, details)


def _figures(profile: Profile, drained: Drain, limit: float) -> list[Figure]:
    reach = REACHES[profile]
    share = round(100 * drained.per_cpu_s / limit, 1)
    return [
        Figure(f"{profile}_per_cpu_s", round(drained.per_cpu_s), "events/s", reach.per_cpu_s,
               at_least=True),
        Figure(f"{profile}_of_limit", share, "%", reach.of_limit, at_least=True),
        Figure(f"{profile}_per_wall_s", round(drained.per_s), "events/s"),
        Figure(f"{profile}_peak_rss", round(drained.peak_rss_bytes / 2**20), "MiB"),
    ]  # fmt: skip


def _limits(ground: Ground, profile: Profile, work: Workload) -> dict[str, float]:
    """Events per CPU second of consuming, decoding and grouping alone, per columnar reader."""
    rates = {}
    with ground.pipeline(f"limit-{profile}") as pipeline:
        fill(pipeline.settings, work.records(work.occurred_at(1_800_000_000_000_000)))
        topic = topics(pipeline.settings).usage
        for reader in READERS:
            if reader != "compiled" and find_spec(reader) is None:
                continue
            ground.tell(f"{profile}: the limit with {reader}")
            found = ground.tool("limit", ground.bootstrap, topic, str(len(work)), reader,
                                str(LIMIT_EVENTS))  # fmt: skip
            _check_total(f"the limit with {reader}", found, work, len(work))
            rates[reader] = found["measured_events"] / found["cpu_s"]
    return rates


def _peer(ground: Ground, work: Workload, events: int) -> Figure:
    count = min(events, len(work))
    ground.tell(f"a stock Faust agent with a table: {count:,} events")
    with ground.pipeline("peer") as pipeline:
        fill(pipeline.settings, islice(work.records(work.occurred_at(0)), count))
        topic = topics(pipeline.settings).usage
        found = ground.tool("stock_faust", ground.bootstrap, topic, str(count))
        _check_total("the stock Faust agent", found, work, count)
    return Figure("peer_stock_faust_per_cpu_s", round(found["events"] / found["cpu_s"]), "events/s")


def _check_total(who: str, found: dict[str, Any], work: Workload, count: int) -> None:
    wanted = [count, int(work.input[:count].sum()), int(work.output[:count].sum())]
    if [found["events"], found["input_tokens"], found["output_tokens"]] != wanted:
        raise SluiceError(f"{who} found {found} instead of {wanted}")
