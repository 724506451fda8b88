"""How far hard budgets are overspent and how much of them is left over, and who obeys how soon.

Several gateways replay a trace against hard budgets, each with an admission point of its own. What
is allowed to go over is what requests took beyond their reservation while their gateway let in its
last one. Then soft budgets are breached one by one, until every gateway refuses.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from sluice.admission.desk_options import DeskOptions
from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.bench.figures import Figure, Report, machine
from sluice.bench.ground import Ground, Pipeline, until
from sluice.bench.latency import TINY_POLICY, spread
from sluice.enforcement.policy_file import load_policy
from sluice.errors import OutsideError
from sluice.metering.prices import PriceBook, default_book
from sluice.metering.rating import cost
from sluice.replay.arena import packaged_trace
from sluice.replay.events import Schedule, blank_event, estimate_pusd, question, usage_event
from sluice.replay.gateway import slots
from sluice.replay.rows import TraceRequest
from sluice.runtime.publish import publish_policy
from sluice.settings import Settings
from sluice.steering.ledgers import Ledgers, LedgerView
from sluice.wire.codec import decode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records

LEFT_PERCENT, OBEY_P99_MS = 1.0, 60.0
# Tenants of the trace that ask for so many times their budget keep asking to the end.
_CONTINUING = 2
# The budget of each tenant, as a part of what the heaviest one asks for.
_PART = 6
# Declared output: below what long answers take, so that some go over their reservation.
_DECLARED = 256
_POLICY_ID, _LEAD_S, _TRIAL_S, _WARM_TRIALS, _POLL_S = "bench-overshoot", 0.5, 20.0, 5, 0.0005
_POLICY = """
policy_id: {policy_id}
budgets:
  - budget_id: tenant-day
    scope: [tenant_id]
    where: {{project_id: {project_id}}}
    unit: usd
    limit_pusd: {limit}
    period: day
    hard: true
    refresh_after_ms: 1000
"""


class Size(NamedTuple):
    """Gateways, requests of the trace, how fast they are played, breaches of soft budgets."""

    gateways: int = 8
    requests: int = 1500
    speed: float = 20.0
    trials: int = 200


class Ran(NamedTuple):
    """One request that was let in: when it ran (µs UTC), what it reserved and took (pusd)."""

    tenant_id: str
    gateway: int
    begun_at: int
    ended_at: int
    reserved: int
    spent: int


class Asked(NamedTuple):
    """What a tenant's requests come to, and the largest amount that one reserves, pusd."""

    spend: int
    largest: int


class Gateway(NamedTuple):
    """One gateway's admission point and emitter."""

    point: AdmissionPoint
    emitter: UsageEmitter


def run(ground: Ground, size: Size) -> Report:
    """Replay against hard budgets, then breach soft ones; one meter, one process of gateways."""
    requests = packaged_trace().requests[: size.requests]
    with ground.pipeline("overshoot") as pipeline:
        pipeline.meters()
        ran, ledgers = hard(pipeline, requests, size, ground)
        publish_policy(pipeline.settings, load_policy(TINY_POLICY, "bench"))
        with gateways(pipeline, size.gateways, "soft") as open_ones:
            ground.tell(f"soft budgets: {size.trials} breaches")
            times = spread(Breaches(open_ones).trials(size.trials))
    asked = _asked(requests)
    lines = [_line(view, asked[view.tenant_id].largest, ran) for view in ledgers]
    continuing = [
        line for line in lines
        if asked[line["tenant_id"]].spend >= _CONTINUING * line["limit_pusd"]
    ]  # fmt: skip
    figures = [
        Figure("overspend_beyond_in_flight", max(line["beyond_pusd"] for line in lines), "pusd", 0),
        Figure("overspend", max(line["overspend_pusd"] for line in lines), "pusd"),
        Figure("in_flight_bound", max(line["bound_pusd"] for line in lines), "pusd"),
        Figure("unspent_beyond_one_reservation",
               max(line["left_percent"] for line in continuing), "%", LEFT_PERCENT),
        Figure("budgets_used_up", len(continuing), "budgets"),
        Figure("admitted", len(ran), "requests"),
        Figure("obey_p50", times.p50, "ms"),
        Figure("obey_p99", times.p99, "ms", OBEY_P99_MS),
    ]  # fmt: skip
    settings = {**size._asdict(), "partitions": 4, "declared_output_tokens": _DECLARED}
    return Report("overshoot", machine(), settings, figures, continuing)


# ---- hard budgets


def hard(
    pipeline: Pipeline, requests: Sequence[TraceRequest], size: Size, ground: Ground
) -> tuple[list[Ran], list[LedgerView]]:
    """What was let in, and the ledgers once all of it is charged and every lease is closed."""
    settings, schedule = pipeline.settings, Schedule("bench", 0, size.speed)
    asked = _asked(requests).values()
    limit = max(max(one.spend for one in asked) // _PART, *(one.largest for one in asked))
    text = _POLICY.format(policy_id=_POLICY_ID, project_id=schedule.project_id, limit=limit)
    publish_policy(settings, load_policy(text, "bench"))
    span_s = requests[-1].arrival_us / 1e6 / size.speed
    with gateways(pipeline, size.gateways, "hard") as open_ones:
        _await_budget(open_ones)
        ground.tell(f"hard budgets: {len(requests)} requests in {span_s:.0f} s and their ends")
        ran = asyncio.run(_play(open_ones, requests, size))
    ledgers: list[LedgerView] = []

    def whole() -> bool:
        ledgers[:] = _ledgers(settings)
        settled = sum(view.settled for view in ledgers)
        return settled == sum(one.spent for one in ran) and not any(v.reserved for v in ledgers)

    until(whole, "all usage in the ledgers and every lease closed", 60.0, poll_s=0.5)
    return ran, ledgers


@contextmanager
def gateways(pipeline: Pipeline, count: int, name: str) -> Iterator[list[Gateway]]:
    """Gateways that have read the control topic."""
    settings = pipeline.settings
    usage, book = topics(settings).usage, default_book()
    options = DeskOptions(price=lambda event: _price(book, event))
    with ExitStack() as stack:
        made = []
        for number in range(count):
            source = f"{name}-{number}"
            emitter = stack.enter_context(UsageEmitter(
                producer_config(settings), usage, source, settings.dir / "wal" / source
            ))  # fmt: skip
            cold = ColdStart(30_000, "closed")
            point = stack.enter_context(
                follow(settings, source, emitter, cold_start=cold, leases=options)
            )
            made.append(Gateway(point, emitter))
        for gateway in made:
            if not gateway.point.wait_ready(30):
                raise OutsideError("the control topic cannot be read")
        yield made


def _await_budget(open_ones: Iterable[Gateway]) -> None:
    until(
        lambda: all(one.point.snapshot()["budgets"] for one in open_ones),
        "every gateway to know the budget",
        60.0,
    )


async def _play(
    open_ones: Sequence[Gateway], requests: Sequence[TraceRequest], size: Size
) -> list[Ran]:
    begin = time.time_ns() // 1000 + round(_LEAD_S * 1e6)
    schedule, ran = Schedule("bench", begin, size.speed), []
    book = default_book()

    async def one(number: int, slot: int) -> None:
        event = usage_event(schedule, number, requests[number]) | _RESERVES
        await _sleep_until(schedule.arrival(requests[number]))
        reserved = estimate_pusd(event, book) or 0
        try:
            reservation = await open_ones[slot].point.reserve_async(question(event, book))
        except Refused:
            return
        # Waited at the gateway, it ends so much later.
        late_us = reservation.started_at - event["started_at"]
        await _sleep_until(event["occurred_at"] + late_us)
        reservation.commit({name: event[name] for name in _USED})
        spent = _price(book, event)
        ran.append(Ran(event["tenant_id"], slot, reservation.started_at,
                       time.time_ns() // 1000, reserved, spent or 0))  # fmt: skip

    places = slots(requests, size.gateways)
    await asyncio.gather(*(one(number, slot) for number, slot in enumerate(places)))
    return ran


_USED = ("input_tokens", "output_tokens", "provider_name", "usage_source")


async def _sleep_until(instant: int) -> None:
    await asyncio.sleep(max(0.0, instant / 1e6 - time.time()))


def _price(book: PriceBook, event: Mapping[str, Any]) -> int | None:
    found = cost(book, {**_BLANK, **event})
    return found.cost_pusd if found else None


def _asked(requests: Iterable[TraceRequest]) -> dict[str, Asked]:
    """What each tenant asks for."""
    book, found = default_book(), dict[str, Asked]()
    for number, request in enumerate(requests):
        event = usage_event(_NO_TIME, number, request) | _RESERVES
        one = Asked(_price(book, event) or 0, estimate_pusd(event, book) or 0)
        all_of = found.get(request.tenant_id, Asked(0, 0))
        found[request.tenant_id] = Asked(all_of.spend + one.spend, max(all_of.largest, one.largest))
    return found


_NO_TIME, _BLANK = Schedule("bench", 0, 1.0), blank_event()
_RESERVES = {"max_output_tokens": _DECLARED}


def _ledgers(settings: Settings) -> list[LedgerView]:
    records = committed_records(settings, topics(settings).budgets)
    found = Ledgers(decode(record.value)[1] for record in records if record.value).current()
    return [view for view in found if view.name.policy_id == _POLICY_ID]


def _line(view: LedgerView, largest: int, ran: Iterable[Ran]) -> dict[str, Any]:
    """What became of one budget, amounts in pusd; `left_percent` beyond one reservation."""
    own = [one for one in ran if one.tenant_id == view.tenant_id]
    over, bound = max(0, view.settled - view.limit), in_flight_excess(own)
    left = max(0, view.limit - view.settled - largest)
    return {
        "tenant_id": view.tenant_id, "limit_pusd": view.limit, "settled_pusd": view.settled,
        "overspend_pusd": over, "bound_pusd": bound, "beyond_pusd": max(0, over - bound),
        "largest_reservation_pusd": largest, "left_percent": round(100 * left / view.limit, 3),
    }  # fmt: skip


def in_flight_excess(ran: Iterable[Ran]) -> int:
    """What requests took beyond their reservation that ran when their gateway let in its last."""
    by_gateway: dict[int, list[Ran]] = defaultdict(list)
    for one in ran:
        by_gateway[one.gateway].append(one)
    excess = 0
    for own in by_gateway.values():
        last = max(one.begun_at for one in own)
        excess += sum(max(0, one.spent - one.reserved) for one in own if one.ended_at >= last)
    return excess


# ---- soft budgets


class Breaches:
    """Usage that breaches a soft budget at one gateway, and every gateway that is to refuse."""

    def __init__(self, open_ones: Sequence[Gateway]) -> None:
        self._gateways = open_ones
        self._random = random.Random(1)  # noqa: S311 (spreads the trials, keeps no secret)

    def trials(self, count: int) -> list[float]:
        """Times of `count` trials in ms, after some that only warm the path up."""
        for number in range(_WARM_TRIALS):
            self._trial(f"warm-{number}")
        return [self._trial(f"breach-{number}") for number in range(count)]

    def _trial(self, tenant: str) -> float:
        # Trials must not fall into step with timers of the pipeline.
        time.sleep(0.02 + self._random.random() * 0.05)
        asked, begun = AdmissionRequest(tenant), time.perf_counter()
        now = time.time_ns() // 1000
        self._gateways[0].emitter.emit({
            "event_type": "inference", "occurred_at": now, "started_at": now, "tenant_id": tenant,
            "project_id": "soft", "operation_name": "chat", "provider_name": "openai",
            "request_model": "gpt-4o", "input_tokens": 1000, "output_tokens": 1000,
            "outcome": "ok",
        })  # fmt: skip
        waiting = [gateway.point for gateway in self._gateways]
        while waiting:
            waiting = [point for point in waiting if point.admit(asked).allowed]
            time.sleep(_POLL_S)
            if time.perf_counter() - begun > _TRIAL_S:
                raise OutsideError(f"{len(waiting)} gateways do not refuse {tenant}")
        return (time.perf_counter() - begun) * 1000
