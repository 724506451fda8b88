"""What admission costs a gateway: asking, reserving with the write-ahead log, a cold start."""

from __future__ import annotations

import gc
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

from sluice.admission.background import uncollected
from sluice.admission.point import AdmissionPoint, wall_clock
from sluice.admission.verdict import AdmissionRequest
from sluice.bench.control_data import SHAPES, Message, budget, decisions, lease, requests
from sluice.bench.figures import Figure, Report, machine
from sluice.errors import SluiceError
from sluice.periods import period_of
from sluice.wire.emitter import UsageEmitter

THREADS = 16
REQUESTS_PER_S = 2000
CONTROL_PER_S = 1000
# No broker: the log takes everything, and nothing is taken out of it.
_NOWHERE = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
_WARM = 200
# Leases of so many tenants are in use at once.
_HELD_TENANTS = 200

Tell = Callable[[str], None]


def run(scopes: int, calls: int, seconds: float, seed: int, tell: Tell) -> Report:
    """Measure with SHAPES decisions on each of `scopes` tenants."""
    about = machine()
    tell(f"making {scopes * SHAPES} decisions")
    messages = list(decisions(scopes))
    point, cold_s, cold_cpu_s = _cold_start(messages)
    asked = requests(scopes, calls, seed)
    tell("asking from one thread")
    alone_us = _times_us(point.admit, asked)
    tell(f"asking from {THREADS} threads beside {CONTROL_PER_S} control messages a second")
    together_us, applied = _open_loop(point, asked, messages[:CONTROL_PER_S], seconds)
    tell("reserving and committing")
    held_us = _reserving(requests(_HELD_TENANTS, calls // 5, seed))
    return Report(
        "admit", about,
        {"scopes": scopes, "decisions": len(messages), "calls": calls, "seconds": seconds,
         "threads": THREADS, "requests_per_s": REQUESTS_PER_S, "control_per_s": CONTROL_PER_S,
         "seed": seed},
        [
            Figure("admit, one thread, p50", _cut(alone_us, 500), "us", 10),
            Figure("admit, one thread, p99", _cut(alone_us, 990), "us", 50),
            Figure("admit, 16 threads, p99", _cut(together_us, 990), "us", 300),
            Figure("admit, 16 threads, p99.9", _cut(together_us, 999), "us"),
            Figure("reserve and commit, p50", _cut(held_us, 500), "us"),
            Figure("reserve and commit, p99", _cut(held_us, 990), "us", 200),
            Figure("cold start", round(cold_s, 3), "s", 2),
        ],
        [{"what": "requests in the open loop", "value": len(together_us)},
         {"what": "control messages applied beside them", "value": applied},
         {"what": "cold start, CPU seconds", "value": round(cold_cpu_s, 3)}],
    )  # fmt: skip


def _cold_start(messages: Sequence[Message]) -> tuple[AdmissionPoint, float, float]:
    """A point that has read the messages, and how long that took: by the wall, and of a core."""
    point = AdmissionPoint()
    gc.collect()
    begun, begun_cpu = time.perf_counter(), time.thread_time()
    state = point.empty_state()
    with uncollected():
        for key, value in messages:
            state.apply(0, key, value, wall_clock())
    point.adopt(state)
    return point, time.perf_counter() - begun, time.thread_time() - begun_cpu


def _times_us(call: Callable[[AdmissionRequest], object], asked: Sequence[AdmissionRequest]
              ) -> list[float]:  # fmt: skip
    """Time of every call after a few that warm up, µs."""
    clock, times = time.perf_counter_ns, []
    for request in asked[:_WARM]:
        call(request)
    for request in asked:
        begun = clock()
        call(request)
        times.append(clock() - begun)
    return [spent / 1000 for spent in times]


def _open_loop(
    point: AdmissionPoint, asked: Sequence[AdmissionRequest], control: Sequence[Message],
    seconds: float,
) -> tuple[list[float], int]:  # fmt: skip
    """Requests at a fixed rate whatever they take, while control messages arrive.

    A request that is late because the one before it took long is timed from when it was due; what
    the system's timers add to a sleep is not.
    """
    stop, found = threading.Event(), [list[float]() for _ in range(THREADS)]
    applied = [0]
    threads = [
        threading.Thread(target=_ask, args=(point, asked[n::THREADS], seconds, found[n]))
        for n in range(THREADS)
    ]
    applying = threading.Thread(target=_apply, args=(point, control, stop, applied))
    for thread in (applying, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    applying.join()
    return [spent for times in found for spent in times], applied[0]


def _ask(point: AdmissionPoint, asked: Sequence[AdmissionRequest], seconds: float,
         times_us: list[float]) -> None:  # fmt: skip
    every_ns = THREADS * 10**9 // REQUESTS_PER_S
    clock = time.perf_counter_ns
    begun = clock()
    due = begun + (threading.get_ident() // 64) % every_ns
    ended = 0
    for request in itertools.cycle(asked):
        if due - begun > seconds * 1e9:
            return
        wait_ns = due - clock()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        started = due if ended > due else clock()
        point.admit(request)
        ended = clock()
        times_us.append((ended - started) / 1000)
        due += every_ns


def _apply(point: AdmissionPoint, control: Sequence[Message], stop: threading.Event,
           applied: list[int]) -> None:  # fmt: skip
    """Newer words of the same decisions, evenly over each second."""
    rounds = itertools.count(2)
    due = time.perf_counter()
    while True:
        for key, value in decisions(len(control) // SHAPES, sequence=next(rounds)):
            if stop.is_set():
                return
            due += 1 / CONTROL_PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            point.apply(0, key, value)
            applied[0] += 1


def _reserving(asked: Sequence[AdmissionRequest]) -> list[float]:
    """Times of reserve and commit under a lease, with the usage event in the log, µs."""
    with tempfile.TemporaryDirectory() as folder:
        emitter = UsageEmitter(_NOWHERE, "bench", "bench", Path(folder), wal_max_bytes=2**30)
        point = AdmissionPoint(None, emitter)
        point.adopt(point.empty_state())
        point.apply(0, *budget())
        period = period_of("day", "UTC", wall_clock()).period_id
        if emitter.source_epoch is None:
            raise SluiceError("the emitter has no epoch")
        for tenant in {request.tenant_id for request in asked}:
            point.apply(0, *lease(tenant, period, "bench", emitter.source_epoch))
        # A lease that is in use is the rule; the first need of one is not timed.
        for request in {request.tenant_id: request for request in asked}.values():
            _reserve(point, request)
        times = _times_us(lambda request: _reserve(point, request), asked)
        point.close()
        emitter.close(0)
    return times


def _reserve(point: AdmissionPoint, request: AdmissionRequest) -> None:
    reservation = point.reserve(request)
    reservation.commit(cost_pusd=700, input_tokens=100, output_tokens=300)


def _cut(times_us: Sequence[float], per_mille: int) -> float:
    """A quantile of the times, µs."""
    return round(quantiles(times_us, n=1000, method="inclusive")[per_mille - 1], 1)
