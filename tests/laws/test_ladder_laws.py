"""The ladder: what holds for every course of signals."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sluice.enforcement.ladder import Asked, Pace, Standing, next_due, rung_for, step, steps_of
from sluice.enforcement.policy_ladder import PRIORITIES, RANK, BudgetLadder, Ceilings

TOP = 5
paces = st.tuples(st.integers(0, 40), st.integers(0, 120), st.integers(0, 120)).map(
    lambda t: Pace(t[0], t[1], min(t[1], t[2]))
)
gaps = st.integers(1, 30)
asks = st.tuples(st.integers(0, TOP), st.integers(0, TOP)).map(lambda t: Asked(min(t), max(t)))
courses = st.lists(st.tuples(gaps, asks), max_size=40)


def climb(course: list[tuple[int, Asked]], pace: Pace) -> list[tuple[int, int]]:
    """(time, level) after every look."""
    standing, time, found = Standing(), 0, []
    for gap, wanted in course:
        time += gap
        before = standing.level
        assert step(standing, wanted, pace, time) is (standing.level != before)
        found.append((time, standing.level))
    return found


@given(course=courses, lower=st.lists(asks, max_size=40), pace=paces)
def test_a_higher_signal_never_stands_lower(
    course: list[tuple[int, Asked]], lower: list[Asked], pace: Pace
) -> None:
    """Where one course asks for no less than another at every look, its rung is never below."""
    looks = list(zip(course, lower, strict=False))
    less = [(gap, Asked(min(a.up, b.up), min(a.stay, b.stay))) for (gap, a), b in looks]
    more = [look for look, _ in looks]
    for (_, high), (_, low) in zip(climb(more, pace), climb(less, pace), strict=True):
        assert high >= low


@given(wanted=asks, times=st.lists(gaps, min_size=1, max_size=60), pace=paces)
def test_a_constant_signal_moves_a_scope_at_rest_once(
    wanted: Asked, times: list[int], pace: Pace
) -> None:
    """From rest, one change at most, to what it asks for."""
    levels = [0] + [level for _, level in climb([(gap, wanted) for gap in times], pace)]
    assert sum(a != b for a, b in pairwise(levels)) <= 1
    assert set(levels) <= {0, wanted.up}


@given(course=courses, wanted=asks, times=st.lists(gaps, max_size=60), pace=paces)
def test_a_constant_signal_never_turns_a_scope_round(
    course: list[tuple[int, Asked]], wanted: Asked, times: list[int], pace: Pace
) -> None:
    """Whatever was before: once the signal stays, a scope that goes down does not rise again."""
    settled = [(gap, wanted) for gap in times]
    levels = [level for _, level in climb(course + settled, pace)][max(0, len(course) - 1) :]
    falls = [b < a for a, b in pairwise(levels) if a != b]
    assert falls == sorted(falls)


@given(course=courses, pace=paces)
def test_a_scope_goes_down_one_rung_at_a_time(course: list[tuple[int, Asked]], pace: Pace) -> None:
    """One rung per dwell, and only from a rung that nothing supported for as long as is kept."""
    found = [(0, 0), *climb(course, pace)]
    stays = {time: wanted.stay for (time, _), (_, wanted) in zip(found[1:], course, strict=True)}
    fell_at = None
    for (_, before), (time, after) in pairwise(found):
        if after >= before:
            continue
        assert after == before - 1
        assert fell_at is None or time - fell_at >= pace.dwell_us
        assert all(stay < before for at, stay in stays.items() if time - pace.keep_us < at <= time)
        fell_at = time


@given(course=courses, pace=paces)
def test_a_rung_is_reached_when_it_was_asked_for_long_enough(
    course: list[tuple[int, Asked]], pace: Pace
) -> None:
    """Never before the signal persisted for `hold`, and at the first look after."""
    found = climb(course, pace)
    for index, (time, level) in enumerate(found):
        since, lasting = time, []
        for (at, _), (_, wanted) in zip(reversed(found[: index + 1]),
                                        reversed(course[: index + 1]), strict=True):  # fmt: skip
            lasting.append(wanted.up)
            since = at
            if time - since >= pace.hold_us:
                break
        reached = min(lasting) if time - since >= pace.hold_us else 0
        before = found[index - 1][1] if index else 0
        assert level >= reached
        assert level <= max(before, reached)


@given(course=courses, pace=paces)
def test_nothing_moves_before_it_is_due(course: list[tuple[int, Asked]], pace: Pace) -> None:
    """While what is asked for stays the same, looks at `next_due` alone see every change."""
    looked, every, time = Standing(), Standing(), 0
    for gap, wanted in course:
        time += gap
        step(looked, wanted, pace, time)
        step(every, wanted, pace, time)
    for now in range(time + 1, time + 200) if course else ():
        step(every, course[-1][1], pace, now)
        due = next_due(looked, pace)
        if due is not None and due <= now:
            step(looked, course[-1][1], pace, now)
        assert looked.level == every.level


ACTIONS = [
    {"action": "allow_with_caps", "max_tokens": 100},
    {"action": "rate_limit", "rate_per_minute": 60},
    {"action": "rate_limit", "rate_per_minute": 10},
    {"action": "degrade", "fallback_models": ["small"]},
    {"action": "queue", "queue_timeout_ms": 100},
    {"action": "preempt"},
    {"action": "isolate", "pool": "p"},
    {"action": "block"},
]
rules = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 3)), min_size=1, max_size=6)
ceilings = st.lists(st.sampled_from(sorted(RANK, key=RANK.__getitem__)[1:]), min_size=3, max_size=3)


@given(rules=rules, most=ceilings)
def test_a_higher_class_is_never_treated_more_strictly(
    rules: list[tuple[dict[str, object], int]], most: list[str]
) -> None:
    """On every rung; and within a class a higher rung is never milder."""
    top = dict(zip(PRIORITIES, sorted(most, key=RANK.__getitem__), strict=True))
    section = BudgetLadder.model_validate({
        "ceilings": top,
        "rules": [
            {"rule_id": f"r{n}", "signal": "burn", "budget_id": "b", "at": n + 1,
             "priorities": PRIORITIES[-count:], **action}
            for n, (action, count) in enumerate(rules)
        ],
    })  # fmt: skip
    steps = steps_of(section, ("tenant_id",))
    assert sorted(set(steps.of.values())) == list(range(1, len(steps.rungs) + 1))
    before = (0, 0, 0)
    for level in range(len(steps.rungs) + 1):
        ranks = tuple(RANK[rung_for(steps, section.ceilings, level, p).action] for p in PRIORITIES)
        assert list(ranks) == sorted(ranks)
        assert all(now >= then for now, then in zip(ranks, before, strict=True))
        assert all(rank <= RANK[top[p]] for rank, p in zip(ranks, PRIORITIES, strict=True))
        before = ranks


def test_ceilings_out_of_order_are_refused() -> None:
    """A guaranteed class with a stricter ceiling than a standard one would be an inversion."""
    try:
        Ceilings(guaranteed="block", standard="queue")
    except ValueError as error:
        assert "stricter ceiling" in str(error)
    else:
        raise AssertionError("an inversion was accepted")
