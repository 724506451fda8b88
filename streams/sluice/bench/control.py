"""Quality of control on the arena trace: what light tenants wait, what is refused, at what price.

A model of the server is calibrated to the measured run without limits and then runs the same
arrivals under three controllers until all is drained. Times to first token count from the arrival
at the gateway, queues included; a wait that ends in a time-out counts as refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median, quantiles
from typing import NamedTuple

from sluice.bench.control_gate import FairGate, FixedLimit, NoLimit, Pace
from sluice.bench.control_server import (
    Calibration,
    Controller,
    Course,
    Job,
    calibrate,
    jobs_of,
    simulate,
)
from sluice.bench.figures import Figure, Report, machine
from sluice.replay.arena import packaged_trace

LIGHT_TTFT_S, REFUSED_PERCENT = 2.0, 10.0
FIXED_PER_MINUTE = 20
HEAVY_TENANTS = 4
# Beside the pace that is used: how much the outcome depends on it.
_VARIANTS = ({"wait_us": 750_000}, {"wait_us": 2_000_000}, {"every_us": 3_000_000},
             {"entitled": 240}, {"floor": 80}, {"timeout_us": 60_000_000})  # fmt: skip


class Outcome(NamedTuple):
    """What a controller made of the trace; times in s, refusals in percent of the requests."""

    control: str
    light_ttft_p50: float
    light_ttft_p95: float
    heavy_ttft_p50: float
    heavy_wait_p95: float
    refused: float
    light_refused: float
    drained: float


def run(timeout_s: float = 120.0) -> Report:
    """Calibrate, then simulate no limit, a fixed limit, and the fair queue at a granted rate."""
    requests = packaged_trace().requests
    jobs = jobs_of(requests)
    fit = calibrate(requests, NoLimit)
    pace = Pace(timeout_us=round(timeout_s * 1_000_000))

    def outcome(name: str, control: Controller) -> Outcome:
        return measured(name, simulate(jobs, fit.model, control), heavy_tenants(jobs))

    free = outcome("no limit", NoLimit())
    fixed = outcome(f"{FIXED_PER_MINUTE} a minute", FixedLimit(FIXED_PER_MINUTE))
    fair = outcome("fair queue", FairGate(pace))
    others = [outcome(f"fair queue, {_named(change)}", FairGate(pace._replace(**change)))
              for change in _VARIANTS]  # fmt: skip
    model = {f"model_{name}": value for name, value in fit.model._asdict().items()}
    settings = {"requests": len(jobs), "heavy_tenants": HEAVY_TENANTS, **pace._asdict(), **model}
    return Report("control", machine(), settings, _figures(fit, free, fixed, fair),
                  [one._asdict() for one in (free, fixed, fair, *others)])  # fmt: skip


def _figures(fit: Calibration, free: Outcome, fixed: Outcome, fair: Outcome) -> list[Figure]:
    return [
        Figure("model_error_median", round(fit.error_median_s, 2), "s"),
        Figure("model_error_mean", round(fit.error_mean_s, 2), "s"),
        Figure("measured_ttft_p50", round(fit.measured_median_s, 2), "s"),
        Figure("no_limit_light_ttft_p50", free.light_ttft_p50, "s"),
        Figure("fixed_limit_light_ttft_p50", fixed.light_ttft_p50, "s"),
        Figure("fixed_limit_refused", fixed.refused, "%"),
        Figure("light_ttft_p50", fair.light_ttft_p50, "s", LIGHT_TTFT_S),
        Figure("light_ttft_p95", fair.light_ttft_p95, "s"),
        Figure("refused", fair.refused, "%", REFUSED_PERCENT),
        Figure("light_refused", fair.light_refused, "%"),
        Figure("heavy_wait_p95", fair.heavy_wait_p95, "s"),
        Figure("drained", fair.drained, "s"),
    ]


def heavy_tenants(jobs: Sequence[Job]) -> frozenset[str]:
    """The tenants with most requests; the others are light."""
    asked = Counter(job.tenant_id for job in jobs)
    return frozenset(name for name, _ in asked.most_common(HEAVY_TENANTS))


def measured(control: str, courses: Sequence[Course], heavy: frozenset[str]) -> Outcome:
    """The outcome of one simulation; percentiles are of the requests that were served."""
    light = [course for course in courses if course.job.tenant_id not in heavy]
    others = [course for course in courses if course.job.tenant_id in heavy]
    light_ttft, heavy_ttft = _seconds(c.ttft_us for c in light), _seconds(c.ttft_us for c in others)
    return Outcome(
        control,
        light_ttft_p50=round(median(light_ttft), 2),
        light_ttft_p95=_p95(light_ttft),
        heavy_ttft_p50=round(median(heavy_ttft), 2),
        heavy_wait_p95=_p95(_seconds(c.waited_us for c in others)),
        refused=_refused_percent(courses),
        light_refused=_refused_percent(light),
        drained=round(max(c.served[2] for c in courses if c.served is not None) / 1e6, 1),
    )


def _seconds(times_us: Iterable[int | None]) -> list[float]:
    return [time_us / 1e6 for time_us in times_us if time_us is not None]


def _p95(times: list[float]) -> float:
    return round(quantiles(times, n=20, method="inclusive")[18], 2)


def _refused_percent(courses: Sequence[Course]) -> float:
    return round(100 * sum(course.served is None for course in courses) / len(courses), 1)


def _named(change: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in change.items())
