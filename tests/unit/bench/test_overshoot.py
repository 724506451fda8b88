"""What hard budgets may go over by: the excess of what ran when a gateway let in its last."""

from __future__ import annotations

from sluice.bench.overshoot import Ran, in_flight_excess


def ran(gateway: int, begun_at: int, ended_at: int, reserved: int, spent: int) -> Ran:
    """A request of one tenant."""
    return Ran("acme", gateway, begun_at, ended_at, reserved, spent)


def test_only_what_ran_at_the_last_admission_may_go_over() -> None:
    """Of each gateway by itself; what ended before was charged before, and less is no credit."""
    first = [ran(0, 0, 5, 10, 90), ran(0, 3, 12, 10, 14), ran(0, 9, 11, 10, 2)]
    second = [ran(1, 1, 2, 10, 13)]
    assert in_flight_excess(first) == 4
    assert in_flight_excess([*first, *second]) == 4 + 3
    assert in_flight_excess([]) == 0
