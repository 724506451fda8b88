"""A queueing model of one inference server with continuous batching, for simulations of control.

Requests wait in the order in which they come. Every `batch_steps` decode steps, or at once when
nothing runs, the server takes in as many as its cache of keys and values can hold to their end; it
reads their prompts while the others pause, and then each step makes one token of every request.
LightLLM and S-LoRA, on which the arena trace was measured, schedule like this. Times are µs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple, Protocol

from sluice.errors import SluiceError
from sluice.replay.rows import TraceRequest

# Steps between two looks at the queue, as LightLLM has it (max_wait_tokens).
_BATCH_STEPS = 10
_POOLS = (9500, 10_000, 10_500, 11_000)
_STEPS_US = (36_000, 37_500, 39_000, 40_500, 42_000, 43_500)


class ServerModel(NamedTuple):
    """What a server needs: a pool in tokens, times in µs, per token and request in ns."""

    pool_tokens: int = 10_000
    step_us: int = 38_000
    step_request_ns: int = 100_000
    step_token_ns: int = 300
    prefill_us: int = 20_000
    prefill_token_ns: int = 250_000
    batch_steps: int = _BATCH_STEPS


class Job(NamedTuple):
    """One request of the trace: its place there, when it came to the gateway, how long it is."""

    number: int
    tenant_id: str
    arrival_us: int
    input_tokens: int
    output_tokens: int


class Course(NamedTuple):
    """What became of a job: when it reached the server, first token, end; None = refused."""

    job: Job
    served: tuple[int, int, int] | None

    @property
    def ttft_us(self) -> int | None:
        """From its arrival at the gateway to its first token, all queues included."""
        return None if self.served is None else self.served[1] - self.job.arrival_us

    @property
    def waited_us(self) -> int | None:
        """From its arrival at the gateway until it was let through."""
        return None if self.served is None else self.served[0] - self.job.arrival_us


class Controller(Protocol):
    """What stands between arrivals and the server."""

    def arrive(self, job: Job, now_us: int, /) -> None:
        """A job has come; it is let through, held or refused later by `pass_on` and `refused`."""

    def pass_on(self, now_us: int, /) -> Iterable[Job]:
        """Jobs that go to the server now, in their order."""

    def refused(self, now_us: int, /) -> Iterable[Job]:
        """Jobs that were refused since the last call, those that waited too long included."""

    def first_token(self, job: Job, waited_us: int, /) -> None:
        """The server has answered a job so long after it was passed on."""

    def next_us(self) -> int | None:
        """When it wants to be asked again although nothing comes; None = then it need not be."""


class Server:
    """The server's state; `step` moves it by one prefill or one decode step."""

    def __init__(self, model: ServerModel) -> None:
        self._model = model
        self._queue: deque[tuple[Job, int]] = deque()
        # (step at which it ends, place in the trace) of what runs, and what it held at step 0.
        self._ends: list[tuple[int, int]] = []
        self._running: dict[int, tuple[Job, int, int, int]] = {}
        self._step = 0
        self._since_look = 0
        self._held_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._queue or self._ends)

    def submit(self, job: Job, now_us: int) -> None:
        """A job reaches the server's own queue."""
        self._queue.append((job, now_us))

    def step(self, now_us: int, control: Controller) -> tuple[int, list[Course]]:
        """Do one piece of work; returns when it is done and the jobs that ended with it."""
        if self._queue and (not self._ends or self._since_look >= self._model.batch_steps):
            self._since_look = 0
            taken = self._take()
            if taken:
                return self._prefill(taken, now_us, control)
        return self._decode(now_us)

    def _take(self) -> list[tuple[Job, int]]:
        """As many from the queue as fit to their end beside what runs; one alone always fits."""
        left = sorted(
            ((end - self._step, self._held_by(number)) for end, number in self._ends), reverse=True
        )
        taken: list[tuple[Job, int]] = []
        while self._queue:
            job = self._queue[0][0]
            grown = sorted([*left, (job.output_tokens, job.input_tokens)], reverse=True)
            if left and _peak(grown) > self._model.pool_tokens:
                break
            left = grown
            taken.append(self._queue.popleft())
        return taken

    def _held_by(self, number: int) -> int:
        job, _, _, began = self._running[number]
        return job.input_tokens + 1 + self._step - began

    def _prefill(
        self, taken: Sequence[tuple[Job, int]], now_us: int, control: Controller
    ) -> tuple[int, list[Course]]:
        tokens = sum(job.input_tokens for job, _ in taken)
        now_us += self._model.prefill_us + self._model.prefill_token_ns * tokens // 1000
        ended = []
        for job, passed_us in taken:
            control.first_token(job, now_us - passed_us)
            if job.output_tokens <= 1:
                ended.append(Course(job, (passed_us, now_us, now_us)))
                continue
            self._running[job.number] = (job, passed_us, now_us, self._step)
            heapq.heappush(self._ends, (self._step + job.output_tokens - 1, job.number))
            self._held_tokens += job.input_tokens + 1
        return now_us, ended

    def _decode(self, now_us: int) -> tuple[int, list[Course]]:
        model, batch = self._model, len(self._ends)
        per_ns = model.step_request_ns * batch + model.step_token_ns * self._held_tokens
        now_us += model.step_us + per_ns // 1000
        self._step += 1
        self._since_look += 1
        self._held_tokens += batch
        ended = []
        while self._ends and self._ends[0][0] <= self._step:
            number = heapq.heappop(self._ends)[1]
            self._held_tokens -= self._held_by(number)
            job, passed_us, first_us, _ = self._running.pop(number)
            ended.append(Course(job, (passed_us, first_us, now_us)))
        return now_us, ended


def _peak(left: Sequence[tuple[int, int]]) -> int:
    """Most tokens ever held by requests of (tokens still to come, tokens held), longest first."""
    held = peak = 0
    for count, (to_come, holds) in enumerate(left, 1):
        held += holds
        peak = max(peak, held + to_come * count)
    return peak


def simulate(jobs: Sequence[Job], model: ServerModel, control: Controller) -> list[Course]:
    """Every job from its arrival to its end or refusal, until all is drained, in trace order.

    Raises SluiceError where the controller keeps a job for ever.
    """
    server, coming, now_us = Server(model), deque(jobs), 0
    courses: list[Course] = []
    while len(courses) < len(jobs):
        while coming and coming[0].arrival_us <= now_us:
            control.arrive(coming.popleft(), now_us)
        for job in control.pass_on(now_us):
            server.submit(job, now_us)
        courses += [Course(job, None) for job in control.refused(now_us)]
        if server.busy:
            now_us, ended = server.step(now_us, control)
            courses += ended
        elif len(courses) < len(jobs):
            now_us = _later(now_us, coming, control.next_us())
    return sorted(courses, key=lambda course: course.job.number)


def _later(now_us: int, coming: deque[Job], asks_us: int | None) -> int:
    """The next instant at which something can happen to an idle server."""
    times = [time for time in (coming[0].arrival_us if coming else None, asks_us)
             if time is not None]  # fmt: skip
    if not times:
        raise SluiceError("the controller holds jobs and passes none on")
    return max(now_us + 1, min(times))


def jobs_of(requests: Sequence[TraceRequest]) -> list[Job]:
    """The requests of a trace as jobs."""
    return [
        Job(number, request.tenant_id, request.arrival_us, request.input_tokens,
            request.output_tokens)
        for number, request in enumerate(requests)
    ]  # fmt: skip


class Calibration(NamedTuple):
    """The model that is nearest to a measured run without limits, and how far it is off, in s."""

    model: ServerModel
    error_median_s: float
    error_mean_s: float
    measured_median_s: float


def calibrate(requests: Sequence[TraceRequest], no_limit: Callable[[], Controller]) -> Calibration:
    """Choose pool and step time so that the median error of the times to first token is least."""
    jobs = jobs_of(requests)
    models = (ServerModel(pool, step_us) for pool in _POOLS for step_us in _STEPS_US)
    tried = [(_errors(simulate(jobs, model, no_limit()), requests), model) for model in models]
    errors, best = min(tried, key=lambda pair: median(map(abs, pair[0])))
    measured = median(r.ttft_us for r in requests if r.ttft_us is not None)
    return Calibration(
        best, median(map(abs, errors)) / 1e6, sum(errors) / len(errors) / 1e6, measured / 1e6
    )


def _errors(courses: Sequence[Course], requests: Sequence[TraceRequest]) -> list[int]:
    """Simulated less measured time to first token of each request that was measured, µs."""
    pairs = ((course.ttft_us, request.ttft_us)
             for course, request in zip(courses, requests, strict=True))  # fmt: skip
    return [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
