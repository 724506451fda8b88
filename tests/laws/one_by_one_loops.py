"""Loops of one task, a tool call at a time: slow, and easy to see that it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sluice.metering.loops import PERIODS, ROUNDS, SAME, SAME_FAILED, call_number

_GRAM, _GRAM_WINDOW = 3, 32
_PPM = 1_000_000
_FAILED_BIT = 1


def symbol_of(event: Mapping[str, Any]) -> int | None:
    """A 63-bit symbol of a tool call, odd if it failed.

    None where its arguments are not hashed, or its result is not although it succeeded: that calls
    came back with the same can then not be told.
    """
    failed = int(event["outcome"] == "error")
    known = event["tool_args_hash"] is not None and (failed or event["result_hash"] is not None)
    if event["event_type"] != "tool" or not known:
        return None
    return call_number(event["tool_name"], event["tool_args_hash"], event["result_hash"]) | failed


def is_looping(symbols: Sequence[int]) -> bool:
    """Whether the newest of a task's symbols goes on with a repetition."""
    if not symbols:
        return False
    enough = SAME_FAILED if symbols[-1] & _FAILED_BIT else SAME
    if len(symbols) >= enough and len(set(symbols[-enough:])) == 1:
        return True
    return any(_is_periodic(symbols, period) for period in PERIODS)


def _is_periodic(symbols: Sequence[int], period: int) -> bool:
    length = period * ROUNDS
    if len(symbols) < length:
        return False
    recent = symbols[-length:]
    # Of one symbol only: the rule for the same symbol decides, whose threshold is another.
    if len(set(recent[:period])) == 1:
        return False
    return all(recent[i] == recent[i - period] for i in range(period, length))


def score_ppm(symbols: Sequence[int]) -> int | None:
    """Share of repeated runs of three among the last 32 symbols; None with fewer than three."""
    recent = symbols[-_GRAM_WINDOW:]
    grams = [tuple(recent[i : i + _GRAM]) for i in range(len(recent) - _GRAM + 1)]
    if not grams:
        return None
    return (len(grams) - len(set(grams))) * _PPM // len(grams)
