"""Disjoint classes: what adds up is taken, what does not is refused with its numbers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from sluice.metering.adapters.openai_usage import bill, usage_counts
from sluice.metering.adapters.reading import AdapterError, Amount, scaled
from sluice.metering.adapters.tokens import Across, TokenCounts, by_ttl, disjoint

READ, WRITE = Amount("read", 30), Amount("write", 20)
OUTPUT, REASONING = Amount("output", 10), Amount("reasoning", 4)


def split(**over: Any) -> TokenCounts:
    """Classes of a call with 30 read, 20 written, 10 out of which 4 reasoning."""
    stated = {"read": READ, "write": WRITE, "output": OUTPUT, "reasoning": REASONING}
    return disjoint(**(stated | over))


def refusal(**over: Any) -> str:
    """Reason and detail of a refusal."""
    with pytest.raises(AdapterError) as error:
        split(**over)
    return str(error.value)


def test_inclusive_and_exclusive_input_give_the_same_classes() -> None:
    """100 with its cache, 50 without it, or both stated: one result."""
    with_cache = split(total=Amount("total", 100))
    assert with_cache == split(uncached=Amount("fresh", 50))
    assert with_cache == split(total=Amount("total", 100), uncached=Amount("fresh", 50))
    assert (with_cache.input_uncached, with_cache.cache_read, with_cache.cache_write) == (
        50, 30, 20,
    )  # fmt: skip
    assert (with_cache.output_text, with_cache.reasoning) == (6, 4)


def test_parts_beyond_their_whole_are_refused() -> None:
    """Each subset is held against its whole, by name and number."""
    total = Amount("total", 100)
    assert refusal(total=Amount("total", 49)) == (
        "part_above_whole: read 30 + write 20 exceeds total 49"
    )
    assert refusal(total=total, reasoning=Amount("reasoning", 11)) == (
        "part_above_whole: reasoning 11 exceeds output 10"
    )
    for across, text in (
        (Across(input_by_modality=(("audio", Amount("a", 101)),)), "a 101 exceeds total 100"),
        (Across(read_by_modality=(("audio", Amount("a", 31)),)), "a 31 exceeds read 30"),
        (Across(write_by_ttl=(("300", Amount("a", 21)),)), "a 21 exceeds write 20"),
        (Across(output_by_modality=(("audio", Amount("a", 11)),)), "a 11 exceeds output 10"),
        (Across(rejected_prediction=Amount("a", 11)), "a 11 exceeds output 10"),
    ):
        assert refusal(total=total, across=across) == f"part_above_whole: {text}"


def test_a_sum_and_its_parts_agree_where_both_are_stated() -> None:
    """One token more or less is a mismatch."""
    for fresh in (49, 51):
        assert refusal(total=Amount("total", 100), uncached=Amount("fresh", fresh)) == (
            f"sum_mismatch: total 100 is not fresh {fresh} + read 30 + write 20"
        )
    assert refusal() == "missing_field: the usage has no count of input tokens"


def test_lifetimes_come_from_their_names() -> None:
    """Anthropic's and OpenAI's names of lifetimes become seconds; other fields are passed over."""
    stated = {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2, "other": 9}
    assert [(key, found.value) for key, found in by_ttl(Amount("w", 3), stated)] == [
        ("300", 1), ("3600", 2),
    ]  # fmt: skip
    stated = {"ttl_30m_tokens": 4, "ttl_12h_tokens": 5}
    assert [key for key, _ in by_ttl(Amount("w", 9), stated)] == ["1800", "43200"]
    assert by_ttl(Amount("w", 9), {"ttl_30m_tokens": 0}) == ()


def test_the_total_places_reasoning() -> None:
    """Reasoning is inside the completion, or beside it where only that explains the total."""
    usage: dict[str, Any] = {
        "prompt_tokens": 10, "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    for total, output in ((None, 5), (15, 5), (18, 8)):
        counts = usage_counts(usage | {"total_tokens": total})
        assert counts is not None
        assert counts.fields()["output_tokens"] == output
    for total in (14, 16, 17, 19):
        with pytest.raises(AdapterError, match="sum_mismatch"):
            usage_counts(usage | {"total_tokens": total})


@pytest.mark.parametrize("wrong", [True, 1.0, "1", [1], {}])
def test_counts_are_whole_numbers(wrong: Any) -> None:
    """A count of another type is refused, also one that Python would add up."""
    with pytest.raises(AdapterError, match="bad_type: prompt_tokens"):
        usage_counts({"prompt_tokens": wrong, "completion_tokens": 1})


def test_a_bill_is_exact() -> None:
    """Floats of a JSON reader give the decimal they were read from; ticks are whole numbers."""
    assert bill({"cost": 0.1}, "openrouter")["cost_pusd"] == 10**11
    assert bill({"cost": 0}, "openrouter")["cost_pusd"] == 0
    assert bill({"cost_in_usd_ticks": 37_756_000}, "x_ai")["cost_pusd"] == 3_775_600_000
    assert bill({"cost": 0.1, "cost_in_usd_ticks": 1}, "openai") == {}
    assert scaled({"c": Decimal("0.0000000000005")}, "c", 10**12) == 0
    assert scaled({"c": Decimal("0.0000000000015")}, "c", 10**12) == 2


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.1, "0.1", True, 1e300])
def test_a_bill_is_a_sensible_number(wrong: Any) -> None:
    """No NaN, infinity, text or negative amount becomes money."""
    with pytest.raises(AdapterError):
        bill({"cost": wrong}, "openrouter")
