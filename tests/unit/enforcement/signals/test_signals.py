"""Signals: what each one measures, and when it keeps silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.laws.one_by_one_tasks import TaskSums, look_at

from sluice.enforcement.policy_ladder import PAIRS
from sluice.enforcement.signals import drift, jitter
from sluice.enforcement.signals.burn import Term, burn, exhaustion, forecast, slo_burn
from sluice.enforcement.signals.jitter import Spread
from sluice.enforcement.signals.neighbour import Patience, PoolUse, noisy_neighbour
from sluice.enforcement.signals.rates import next_rate
from sluice.enforcement.signals.signal import PPM, Signal, ratio_ppm
from sluice.enforcement.signals.tasks import (
    depth,
    fan_out,
    loop,
    repetition,
    retry_share,
    task_cost,
)
from sluice.metering.histogram import bucket_of
from sluice.metering.tasks import TaskLook
from sluice.money import INT64_MAX

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
FAST = PAIRS["5m/1h"]
TERM = Term(limit=24_000, committed=6_000, period_start=0, period_end=DAY_US)


def task(**over: Any) -> TaskLook:
    """A task of which nothing is known but its beginning."""
    return look_at(TaskSums(0, "chat", None, None, 0, 0, 0, **over))


def test_a_ratio_over_nothing_is_bounded() -> None:
    """Something over nothing is the largest number; nothing over nothing is nothing."""
    assert ratio_ppm(1, 3) == 333_333
    assert (ratio_ppm(1, 0), ratio_ppm(0, 0)) == (INT64_MAX, 0)
    assert ratio_ppm(10**30, 1) == INT64_MAX


def test_a_threshold_is_reached_at_its_value_and_held_above_its_exit() -> None:
    """At the threshold it is reached; at 80 % of it, it still holds; below, it does not."""
    values = [Signal("burn", value, 100, "ppm", "") for value in (100, 99, 80, 79)]
    assert [signal.reached for signal in values] == [True, False, False, False]
    assert [signal.holds(4, 5) for signal in values] == [True, True, True, False]


def test_a_budget_spent_evenly_burns_at_one() -> None:
    """A 24th of a day's budget in an hour is a burn of 1, in both windows."""
    signal = burn((1_000 // 12, 1_000), FAST, TERM._replace(limit=24_000), PPM)
    assert dict(signal.evidence)["long_ppm"] == PPM
    assert signal.value == 996_000  # 83 of 83.33 in five minutes
    assert not signal.reached


def test_both_windows_have_to_burn() -> None:
    """A burst that is over, and one that has only begun, do not count as burning."""
    over, begun, both = (burn(spent, FAST, TERM, 2 * PPM) for spent in
                         ((0, 9_000), (900, 900), (900, 9_000)))  # fmt: skip
    assert [s.reached for s in (over, begun, both)] == [False, False, True]


def test_any_spend_of_a_budget_of_nothing_burns() -> None:
    """A limit of 0 has no rate to compare with: one pico-dollar is too much, none is not."""
    nothing = TERM._replace(limit=0)
    assert burn((1, 1), FAST, nothing, 10**12).reached
    assert burn((0, 0), FAST, nothing, 1).value == 0


def test_the_money_for_bad_outcomes_burns() -> None:
    """5 % of the cost was for nothing where 1 % may be: a burn of 5."""
    signal = slo_burn((5, 50), (100, 1_000), FAST, 990_000, 5 * PPM)
    assert signal.value == 5 * PPM
    assert signal.reached
    assert slo_burn((0, 0), (0, 0), FAST, 990_000, PPM).value == 0


def test_a_forecast_goes_on_like_the_faster_window() -> None:
    """600 an hour lately and 1,200 an hour over five minutes: the faster one counts."""
    found = forecast((100, 600), FAST, TERM, DAY_US, DAY_US // 2)
    assert found.forecast == 6_000 + 12 * 1_200
    assert found.headroom == 18_000
    assert found.pressure_ppm == 800_000
    assert found.exhausted_at is None
    assert not exhaustion(found, FAST, PPM).reached


def test_a_forecast_says_when_the_limit_is_reached() -> None:
    """18,000 left at 3,000 an hour last six hours, and twelve are to go."""
    found = forecast((250, 3_000), FAST, TERM, DAY_US, DAY_US // 2)
    assert found.exhausted_at == DAY_US // 2 + 6 * HOUR_US
    assert found.pressure_ppm == 2 * PPM
    assert exhaustion(found, FAST, 2 * PPM).reached


def test_an_exhausted_budget_is_exhausted_now() -> None:
    """What is gone has no headroom; going on is pressure without bound, standing still is none."""
    spent = TERM._replace(committed=25_000)
    assert forecast((1, 1), FAST, spent, DAY_US, 7).exhausted_at == 7
    assert forecast((1, 12), FAST, spent, DAY_US, 7).pressure_ppm == INT64_MAX
    assert forecast((0, 0), FAST, spent, DAY_US, 7).pressure_ppm == 0


def test_a_scope_seen_for_a_moment_is_not_divided_by_an_hour() -> None:
    """600 within the first ten minutes are 3,600 an hour, not 600."""
    found = forecast((0, 600), FAST, TERM, HOUR_US // 6, 0)
    assert found.forecast == 6_000 + 24 * 3_600


def test_a_looping_task_is_one_and_others_are_none() -> None:
    """The rule of `metering.loops` decides; the evidence says what it cost."""
    assert loop(task(looping=True)).reached
    assert not loop(task(looping=False)).reached


def test_repeated_runs_need_thirty_two_calls() -> None:
    """With fewer calls nothing is said; a cycle of two repeats nearly all its runs."""
    assert repetition(task(symbols=[2, 4] * 15), 1) is None
    signal = repetition(task(symbols=[2, 4] * 16), 600_000)
    assert signal is not None
    assert signal.value == 28 * PPM // 30
    assert signal.reached


def test_a_task_is_held_against_its_norm() -> None:
    """Twice the norm is 2; without a norm nothing is said."""
    signal = task_cost(task(cost_pusd=200, baseline_pusd=100), 2 * PPM)
    assert signal is not None
    assert signal.reached
    assert task_cost(task(cost_pusd=200), 1) is None


def test_calls_are_counted() -> None:
    """Fan-out and depth are pieces."""
    assert fan_out(task(fan_out=9), 9).reached
    assert not depth(task(depth=9), 10).reached


def test_retries_are_a_share_of_all_attempts() -> None:
    """3 of 10."""
    assert retry_share(10, 3, "5m", 300_000).reached


PATIENCE = Patience(least_us=100_000, over_usual_ppm=2 * PPM, least_waited=10)
OWN = PoolUse(800, 1_000, 10)


@pytest.mark.parametrize(
    ("others", "usual", "noisy"),
    [
        (PoolUse(200, 2_000_000, 10), PoolUse(0, 1_000_000, 10), True),
        (PoolUse(200, 1_999_990, 10), PoolUse(0, 1_000_000, 10), False),  # not twice the usual
        (PoolUse(200, 990_000, 10), PoolUse(0, 1, 10), False),  # less than 100 ms
        (PoolUse(200, 9_000_000, 9), PoolUse(0, 1_000_000, 10), False),  # too few waited
        (PoolUse(900, 2_000_000, 10), PoolUse(0, 1_000_000, 10), False),  # not half the load
    ],
)
def test_a_neighbour_is_noisy_only_while_others_wait(
    others: PoolUse, usual: PoolUse, noisy: bool
) -> None:
    """A large share, and the others' waiting above a floor and above twice the usual."""
    whole = PoolUse(*(a + b for a, b in zip(OWN, others, strict=True)))
    signal = noisy_neighbour(OWN, whole, usual, PATIENCE, "5m", 800_000)
    assert signal.reached is noisy


def filled(time: int, *values: int, into: Spread | None = None) -> Spread:
    """Times of a place in the window of `time`."""
    spread = into or Spread(time // jitter.WINDOW_US)
    jitter.turn(spread, time)
    for value in values:
        jitter.add(spread, bucket_of(value), 1)
    return spread


def test_jitter_is_the_spread_against_the_past() -> None:
    """Slow requests ten times as far away as in the windows before are a jitter of about 10."""
    spread = filled(0, *[1_000] * 98, *[2_000] * 2)
    assert jitter.jitter(spread, PPM) is None
    filled(jitter.WINDOW_US, *[1_000] * 98, *[20_000] * 2, into=spread)
    signal = jitter.jitter(spread, 9 * PPM)
    assert signal is not None
    assert 9_600_000 < signal.value < 10_400_000


def test_the_past_fades_only_when_something_is_seen() -> None:
    """After a silence the norm is what it was; a new window takes an eighth from it."""
    spread = filled(0, *[1_000] * 160)
    filled(9 * jitter.WINDOW_US, *[1_000] * 8, into=spread)
    assert spread.past == {bucket_of(1_000): [160, 0]}
    filled(10 * jitter.WINDOW_US, into=spread)
    assert spread.past == {bucket_of(1_000): [148, 0]}


def followed(*values: int) -> Signal | None:
    """The score after values, given as buckets of cost."""
    states = drift.blank(1)
    drift.follow(states, np.zeros(len(values), dtype=np.int64), np.array(values, dtype=np.int64))
    return drift.drift(states[0])


def test_a_higher_level_of_cost_adds_up() -> None:
    """Costs that alternate are no drift; two deviations above them are one after six."""
    usual = [1_000, 1_020] * 100
    assert followed(*usual[:-1]) is None
    calm = followed(*usual, *usual)
    assert calm is not None
    assert not calm.reached
    risen = [followed(*usual, *[1_030] * count) for count in (5, 6)]
    assert [signal.reached for signal in risen if signal] == [False, True]


def test_a_level_that_stays_becomes_the_norm() -> None:
    """200 values after the alarm the new level is learned, and then it is no drift."""
    usual, higher = [1_000, 1_020] * 100, [1_100] * 500
    signal = followed(*usual, *higher)
    assert signal is not None
    assert signal.value == 0


def test_a_rate_falls_fast_and_rises_slowly() -> None:
    """0.7 under pressure, a twentieth of the entitlement when calm, never outside its bounds."""
    limits = {"entitled": 100, "floor": 10}
    assert next_rate(100, 1_000_001, **limits) == 70
    assert next_rate(70, 900_000, **limits) == 70
    assert next_rate(70, 799_999, **limits) == 75
    assert next_rate(11, 2_000_000, **limits) == 10
    assert next_rate(98, 0, **limits) == 100
