"""The simulation of control: the server's model, the controllers, what they make of the trace."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.bench.control import heavy_tenants, measured, run
from sluice.bench.control_gate import FairGate, FixedLimit, NoLimit, Pace
from sluice.bench.control_server import (
    Controller,
    Course,
    Job,
    ServerModel,
    _peak,
    simulate,
)
from sluice.bench.figures import Report
from sluice.errors import SluiceError

MODEL = ServerModel(pool_tokens=100, step_us=1000, step_request_ns=0, step_token_ns=0,
                    prefill_us=500, prefill_token_ns=0)  # fmt: skip


def job(number: int, tenant_id: str = "a", at: int = 0, tokens: tuple[int, int] = (10, 5)) -> Job:
    """One job."""
    return Job(number, tenant_id, at, *tokens)


jobs = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 90_000_000), st.integers(0, 60),
              st.integers(0, 60)),
    max_size=25,
).map(lambda rows: [job(n, tenant, at, (held, out)) for n, (tenant, at, held, out)
                    in enumerate(sorted(rows, key=lambda row: row[1]))])  # fmt: skip
CONTROLLERS = {
    "no limit": NoLimit,
    "fixed": lambda: FixedLimit(2),
    "fair": lambda: FairGate(Pace(entitled=60, floor=6, timeout_us=3_000_000)),
}


def test_one_job_alone() -> None:
    """The prompt is read, which gives the first token; each further one is a step."""
    (course,) = simulate([job(0, at=7)], MODEL, NoLimit())
    assert course.served == (7, 507, 4507)
    assert (course.ttft_us, course.waited_us) == (500, 0)


def test_what_does_not_fit_waits() -> None:
    """Two of 60 tokens exceed a pool of 100: the second begins when the first has ended."""
    first, second = simulate([job(0, tokens=(40, 20)), job(1, tokens=(40, 20))], MODEL, NoLimit())
    assert first.served is not None and second.served is not None
    assert second.served[1] == first.served[2] + 500


def test_what_fits_nowhere_runs_alone() -> None:
    """A job larger than the pool is served all the same."""
    (course,) = simulate([job(0, tokens=(500, 2))], MODEL, NoLimit())
    assert course.served is not None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_the_peak_is_that_of_growing_token_by_token(rows: list[tuple[int, int]]) -> None:
    """As a slow count of every step finds it."""
    rows.sort(reverse=True)
    last = rows[0][0]
    held = [
        sum(holds + step for to_come, holds in rows if to_come >= step) for step in range(last + 1)
    ]
    assert _peak(rows) == max(held)


@settings(max_examples=60)
@given(jobs, st.sampled_from(sorted(CONTROLLERS)))
def test_every_job_ends_once_and_in_order(given_jobs: list[Job], name: str) -> None:
    """Served or refused, never both, never lost; times follow each other; a time-out is one."""
    control: Controller = CONTROLLERS[name]()
    courses = simulate(given_jobs, MODEL, control)
    assert [course.job for course in courses] == given_jobs
    for course in courses:
        if course.served is not None:
            passed, first, end = course.served
            assert course.job.arrival_us <= passed < first <= end
        if name == "fair":
            assert course.waited_us is None or course.waited_us < 3_000_000


@given(jobs)
def test_a_fixed_limit_holds_in_every_minute(given_jobs: list[Job]) -> None:
    """Of no tenant more than two within any minute; what is refused had two before it."""
    let: dict[str, list[int]] = {}
    for course in simulate(given_jobs, MODEL, FixedLimit(2)):
        at, own = course.job.arrival_us, let.setdefault(course.job.tenant_id, [])
        recent = [time for time in own if time > at - 60_000_000]
        assert (course.served is None) == (len(recent) >= 2)
        if course.served is not None:
            own.append(at)


def test_a_controller_that_keeps_jobs_is_an_error() -> None:
    """The simulation says so instead of running for ever."""

    class Keeps(NoLimit):
        def pass_on(self, _now_us: int, /) -> list[Job]:
            return []

    with pytest.raises(SluiceError, match="passes none on"):
        simulate([job(0)], MODEL, Keeps())


def test_outcomes_count_refusals_of_all_and_of_light_tenants() -> None:
    """Percentiles of what was served; shares of what was asked."""
    heavy = [Course(job(n, "big"), (n, n + 1_000_000, n + 9)) for n in range(6)]
    light = [Course(job(n, t), (0, n * 1_000_000, 9)) for n, t in enumerate("abcde", 6)]
    refused = [Course(job(11, "a"), None)]
    courses = [*heavy, *light, *refused]
    names = heavy_tenants([course.job for course in courses])
    assert "big" in names and len(names) == 4
    found = measured("x", courses, frozenset({"big"}))
    assert (found.light_ttft_p50, found.refused, found.light_refused) == (8.0, 8.3, 16.7)
    assert found.heavy_ttft_p50 == 1.0


@pytest.fixture(scope="module")
def report() -> Report:
    """The benchmark itself; it takes about 3 s and gives the same figures everywhere."""
    return run()


def test_the_model_is_near_the_measured_run(report: Report) -> None:
    """Its error is small beside the 39 s that the trace waited, and it is stated."""
    figures = {figure.name: figure.value for figure in report.figures}
    assert figures["measured_ttft_p50"] == 39.07
    assert figures["model_error_median"] < 2 and abs(figures["model_error_mean"]) < 2
    assert 50 < figures["no_limit_light_ttft_p50"] < 65  # 57.1 s were measured


def test_fair_control_reaches_what_a_fixed_limit_does_not(report: Report) -> None:
    """Light tenants wait as little, and less than half as many are refused."""
    figures = {figure.name: figure for figure in report.figures}
    assert figures["fixed_limit_refused"].value == 22.7  # the traced run with that limit: 22.8
    assert figures["light_ttft_p50"].met and figures["refused"].met and report.met
    assert figures["heavy_wait_p95"].value > figures["light_ttft_p95"].value
    assert Counter(figure.met for figure in report.figures)[True] == 2
    assert [line["control"] for line in report.details][:3] == [
        "no limit", "20 a minute", "fair queue",
    ]  # fmt: skip
