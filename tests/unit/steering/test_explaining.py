"""Decisions and bounds as people are told them, from messages of the control topic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.admission.messages import (
    MINUTE_US,
    NOW,
    budget_rule,
    decision,
    key_of,
    lease,
    rule_key,
)

from sluice.enforcement.policy_file import load_policy
from sluice.errors import ConfigError
from sluice.steering.amounts import (
    amount_text,
    percent_text,
    plain_amount,
    read_scope,
    rounded_up,
    whose,
)
from sluice.steering.bounds import bounds
from sluice.steering.control import Standing
from sluice.steering.explaining import (
    known,
    needed_raise,
    tell_decision,
    tell_scope,
    tell_stored,
)
from sluice.steering.ledgers import LedgerName, Ledgers, LedgerView
from sluice.steering.versions import Published

USD = 10**12
ROW: dict[str, Any] = {
    "tenant_id": "acme", "policy_id": "p", "budget_id": "b", "scope": "tenant_id=acme",
    "period": "d", "period_start": NOW - 60 * MINUTE_US, "period_end": NOW + 60 * MINUTE_US,
    "shard": 0, "limit_pusd": USD, "settled_pusd": 2 * USD, "reserved_pusd": 0,
    "presumed_pusd": 0, "corrected_pusd": 0, "remaining_pusd": -USD, "events": 3, "unpriced": 0,
    "burn": [], "forecast_pusd": None, "exhausted_at": None, "state": "block",
    "decision_id": "id-block", "watermark": NOW, "version": 7,
}  # fmt: skip
EVIDENCE = {"window": "d", "observed": 2 * USD, "limit": USD, "unit": "pusd", "offsets": []}


def standing(*messages: tuple[bytes, bytes | None]) -> Standing:
    """The control topic after these messages of partition 0."""
    made = Standing()
    for key, value in messages:
        made.take(0, key, value, NOW)
    return made


def view(**over: Any) -> LedgerView:
    """A ledger from one row."""
    (ledger,) = Ledgers([ROW | over]).current()
    return ledger


def lease_key(holder: str, period: str = "d", budget: str = "b") -> bytes:
    """A control key of a lease about acme."""
    return f"lease|p|{budget}|tenant_id=acme|{period}|{holder}|e1".encode()


def blocked(**over: Any) -> tuple[bytes, bytes]:
    """A block of budget b about acme."""
    return key_of("b"), decision(rule_id="b", evidence=EVIDENCE, **over)


def test_a_block_is_told_with_evidence_and_ways_out() -> None:
    """The sentence, the numbers, the end, the raise that would lift it, the withdrawal."""
    (told,) = tell_scope(known(standing(blocked()), [view()]), {"tenant_id": "acme"}, NOW)
    assert told.status == "in_force"
    assert "block for tenant_id=acme, until 2027-01-15 09:00:00 UTC" in told.sentence
    assert told.as_dict()["evidence"]["observed"] == 2 * USD
    assert told.as_dict()["scope"] == {"tenant_id": "acme"}
    ends, raised, withdrawn = told.ways_out
    assert ends == "it ends by itself at 2027-01-15 09:00:00 UTC"
    assert raised == (
        "a limit of 2.000001 USD: sluice budget raise p b --scope tenant_id=acme --add 1.000001 "
        "--until ... --reason ..."
    )
    assert withdrawn.endswith("sluice policy withdraw p")


@pytest.mark.parametrize(
    ("on_expiry", "said"),
    [("closed", "its scope is refused until it is renewed"), ("keep", "until it is replaced")],
)
def test_what_does_not_end_by_itself_says_so(on_expiry: str, said: str) -> None:
    """A decision that outlives its expiry never promises to end then."""
    (told,) = tell_scope(known(standing(blocked(on_expiry=on_expiry))), {}, NOW)
    assert said in told.ways_out[0]
    assert "ends by itself" not in told.ways_out[0].replace("does not end by itself", "")


def test_other_scopes_and_lifted_decisions_are_not_told() -> None:
    """A decision about another tenant does not touch the scope; a tombstone takes one away."""
    topic = standing(blocked(), (key_of("x", "tenant_id=other"),
                                 decision(scope={"tenant_id": "other"})))  # fmt: skip
    assert len(tell_scope(known(topic), {"tenant_id": "acme"}, NOW)) == 1
    assert len(tell_scope(known(topic), {}, NOW)) == 2
    topic.take(0, key_of("b"), None, NOW)
    assert tell_scope(known(topic), {"tenant_id": "acme"}, NOW) == []
    assert key_of("b") not in topic.records


def test_shadow_and_expired_ones_are_told_as_such() -> None:
    """Neither limits anything, so nothing has to lift them."""
    shadow = key_of("b", mode="shadow"), decision(mode="shadow")
    old = key_of("c"), decision(rule_id="c", expires_at=NOW - 1, effective_at=NOW - 2)
    told = tell_scope(known(standing(shadow, old)), {}, NOW)
    assert [entry.status for entry in told] == ["expired", "shadow"]
    assert told[1].ways_out == ()


LADDER = """
policy_id: p
budgets:
  - {budget_id: b, scope: [tenant_id], unit: usd, limit: "1", period: day,
     rules: [{rule_id: stop, at: 100%, action: block}]}
risk:
  keep_s: 120
  dwell_s: 30
  rules: [{rule_id: deep, signal: depth, at: 12, action: preempt}]
"""


def test_a_rung_of_a_ladder_is_lifted_by_its_signal() -> None:
    """With the policy at hand the threshold and the times are told; it never promises an end."""
    policy = load_policy(LADDER, "p")
    evidence = EVIDENCE | {"observed": 2_000_000, "limit": 1_500_000, "unit": "ppm"}
    topic = standing((key_of("risk"), decision(rule_id="risk", evidence=evidence,
                                               policy_version=policy.version)))  # fmt: skip
    (told,) = tell_scope(known(topic, [], [Published(policy, 1)]), {}, NOW)
    assert told.ways_out[0] == (
        "its signal staying below 120.0 % for 120 s, then a rung less every 30 s; until then it "
        "is renewed before it ends"
    )
    (unknown,) = tell_scope(known(topic), {}, NOW)
    assert unknown.ways_out[0].startswith("its signal staying low")


def test_a_decision_is_found_by_its_id() -> None:
    """Only the one that stands; an unknown id is None."""
    topic = standing(blocked())
    told = tell_decision(known(topic, [view()]), "id-block", NOW)
    assert told is not None and told.status == "in_force"
    assert tell_decision(known(topic), "id-other", NOW) is None


STORED: dict[str, Any] = {
    "decision_id": "i", "action": "block", "tenant_id": "acme", "policy_id": "p",
    "policy_version": "v1", "rule_id": "b", "reason": "spent", "scope": "tenant_id=acme",
    "issued_at": NOW - 9,
    "expires_at": NOW - 1, "lifted_at": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("over", "successor", "ended"),
    [
        ({}, None, ("expired", NOW - 1, None)),
        ({"lifted_at": NOW - 5}, None, ("lifted", NOW - 5, None)),
        ({"lifted_at": NOW - 5}, {"decision_id": "j", "issued_at": NOW - 7},
         ("replaced", NOW - 7, "j")),
        ({"expires_at": NOW + 1}, None, ("replaced", None, None)),
    ],
)  # fmt: skip
def test_a_past_decision_says_how_it_ended(
    over: dict[str, Any], successor: Any, ended: tuple[Any, ...]
) -> None:
    """A successor replaced it, else a tombstone lifted it, else it expired."""
    told = tell_stored(STORED | over, successor, NOW)
    assert (told.status, told.ended_at, told.ended_by) == ended
    assert "policy p v1, rule b): spent" in told.sentence


@given(
    limit=st.integers(1, 10**15), percent=st.integers(1, 100), surplus=st.integers(0, 10**15)
)  # fmt: skip
def test_the_raise_is_the_smallest_that_lifts(limit: int, percent: int, surplus: int) -> None:
    """With it the spend is below the threshold, as a share of the limit, that it had reached."""
    threshold = -(-limit * percent // 100)
    settled = threshold + surplus
    ledger = view(limit_pusd=limit, settled_pusd=settled)
    add = needed_raise(EVIDENCE | {"limit": threshold}, ledger)
    assert add is not None
    share = Fraction(threshold, limit)
    assert settled < share * (limit + add)
    assert add == 0 or settled >= share * (limit + add - 1)


def test_no_raise_is_named_for_another_period() -> None:
    """Evidence about yesterday says nothing about today's ledger."""
    assert needed_raise(EVIDENCE | {"window": "e"}, view()) is None
    assert needed_raise(EVIDENCE | {"limit": 2 * USD}, view()) is None


def test_a_hard_budget_is_bound_by_its_limit() -> None:
    """Granted and unsettled is what may be in flight; live leases of the period are listed."""
    topic = standing(
        (rule_key("b"), budget_rule()), (lease_key("gw"), lease(granted_total=5)),
        (lease_key("old"), lease(holder="old", expires_at=NOW)),
        (lease_key("gw", "e"), lease(period="e")), (lease_key("gw", budget="c"), lease()),
    )  # fmt: skip
    ledger = view(settled_pusd=USD // 2, reserved_pusd=30, presumed_pusd=7, remaining_pusd=1)
    (bound,) = bounds(topic, [ledger], {"tenant_id": "acme"}, 1000, NOW)
    assert (bound.hard, bound.in_flight, bound.worst_case) == (True, 37, USD)
    assert [(grant.holder, grant.granted_total) for grant in bound.grants] == [("gw", 5)]
    assert bound.as_dict()["grants"][0]["holder"] == "gw"
    assert "never more than 1.000000 USD" in bound.sentence


def test_a_soft_budget_is_bound_by_rate_times_delay() -> None:
    """The highest rate of the look-back windows counts; without a delay there is no number."""
    burn = [{"key": "5m", "value": 300 * USD}, {"key": "1h", "value": 360 * USD}]
    ledger = view(burn=burn)
    (bound,) = bounds(Standing(), [ledger], {}, 50_000, NOW)
    assert (bound.hard, bound.rate_per_s, bound.rate_of) == (False, USD, "5m")
    assert (bound.overshoot, bound.worst_case) == (USD // 20, 2 * USD + USD // 20)
    (unknown,) = bounds(Standing(), [ledger], {}, None, NOW)
    assert (unknown.overshoot, unknown.worst_case) == (None, None)
    assert "60.000000 USD a minute (last 5m) until gateways obey" in unknown.sentence


def test_without_windows_the_mean_of_the_period_counts() -> None:
    """2 USD within an hour; nothing at all has no rate."""
    assert view().burn_per_s() == (-(-2 * USD // 3600), "period")
    assert view(settled_pusd=0).burn_per_s() is None


def test_periods_that_are_over_have_no_bound() -> None:
    """Yesterday's ledger bounds nothing, nor does another tenant's."""
    assert bounds(Standing(), [view(period_end=NOW)], {}, None, NOW) == []
    assert bounds(Standing(), [view()], {"tenant_id": "other"}, None, NOW) == []


def test_the_newest_row_of_a_ledger_counts() -> None:
    """By version within a period, by start between periods; shards add up; units are kept."""
    newer = ROW | {"version": 8, "settled_pusd": 3 * USD}
    shard = ROW | {"shard": 1, "settled_pusd": 1, "version": 1}
    before = ROW | {"period": "c", "period_start": NOW - 90 * MINUTE_US, "version": 99}
    (ledger,) = Ledgers([newer, ROW, shard, before]).current()
    assert (ledger.period, ledger.settled, ledger.limit) == ("d", 3 * USD + 1, 2 * USD)
    tokens = {"unit": "tokens", "limit": 10, "settled": 4, "reserved": 1, "presumed": 0,
              "corrected": 0, "remaining": 5, "forecast": 12}  # fmt: skip
    (counted,) = Ledgers([ROW | tokens]).current()
    assert (counted.unit, counted.limit, counted.settled, counted.forecast) == ("tokens", 10, 4, 12)
    assert counted.name == LedgerName("p", "b", "tenant_id=acme")


def test_scopes_are_read_as_they_are_written() -> None:
    """Encoded values come back; what is no scope is named."""
    assert read_scope("model=a%2Cb,tenant_id=acme") == {"model": "a,b", "tenant_id": "acme"}
    assert read_scope("") == read_scope("all") == {}
    for text, said in (("acme", "'acme' is no field=value"), ("tenant=acme", "tenant is none of"),
                       ("tenant_id=", "is no field=value")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            read_scope(text)


def test_a_scope_without_fields_reads_all_tenants() -> None:
    """Unless the whole budget belongs to one tenant."""
    assert (whose(""), whose("model=m"), whose("model=m", "acme")) == (
        "all tenants", "model=m", "model=m",
    )  # fmt: skip
    assert whose("", "a,b") == "tenant_id=a%2Cb"


def test_an_amount_for_a_policy_is_never_too_small() -> None:
    """Money is rounded up to a micro-dollar, other units stay."""
    assert plain_amount(1, "pusd") == "0.000001"
    assert rounded_up(1, "pusd") == 10**6
    assert plain_amount(50 * USD, "pusd") == "50"
    assert plain_amount(7, "tokens") == "7"


def test_amounts_for_people() -> None:
    """Money in dollars, shares with a decimal, nothing measured as a dash."""
    assert amount_text(60_000_000, "pusd") == "0.000060 USD"
    assert (amount_text(1234, "tokens"), amount_text(None, "pusd")) == ("1,234 tokens", "-")
    assert (amount_text(1_234_000, "ppm"), amount_text(1_500_000, "us")) == ("123.4 %", "1.500 s")
    assert (amount_text(5, "carats"), plain_amount(2_500_000, "gpu_us")) == ("5 carats", "2.5")
    assert (percent_text(6, 5), percent_text(1, 3), percent_text(0, 0)) == (
        "120.0 %", "33.3 %", "100 %",
    )  # fmt: skip
