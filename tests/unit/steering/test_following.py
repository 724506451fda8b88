"""Messages of the control topic as lines."""

from __future__ import annotations

import pytest
from tests.unit.admission.messages import (
    NOW,
    budget_rule,
    decision,
    heartbeat,
    key_of,
    lease,
    rule_key,
)

from sluice.steering.following import Line, line_of
from sluice.wire.scan import Scanned


def line(key: bytes, value: bytes | None) -> Line:
    """The line of one message."""
    return line_of(Scanned("t.control.v1", 2, 9, NOW // 1000, key, value, []))


@pytest.mark.parametrize(
    ("key", "value", "kind", "scope", "said"),
    [
        (key_of(), decision(), "decision", "tenant_id=acme", "acme has spent 2 of 1 USD"),
        (rule_key(), budget_rule(), "budget", "",
         "p v1: hard budget b, 0.000000 USD a day per tenant_id (enforce, partition 0)"),
        (rule_key(), budget_rule(limits=[{"key": "tenant_id=acme", "value": 9}], unit="tokens"),
         "budget", "", "1,000 tokens a day per tenant_id, 1 with a limit of their own"),
        (rule_key(), budget_rule(scope=[], source_partition=4), "budget", "",
         "a day of all tenants together (enforce, partition 4)"),
        (rule_key(), budget_rule(scope=[], where=[{"key": "tenant_id", "value": "acme"}]),
         "budget", "tenant_id=acme", "a day of tenant acme in all (enforce, partition 0)"),
        (b"lease|", lease(scope={}), "lease", "", "gw may spend 0.000000 USD of budget b in d"),
        (b"lease|p|b||d|gw|e1", None, "lifted", "", "gw holds nothing of budget b in d"),
        (key_of(scope=""), None, "lifted", "", "policy p, budget r: no decision stands"),
        (b"lease|", lease(unit="tokens"), "lease", "tenant_id=acme",
         "gw may spend 5 tokens of budget b in d until 2027-01-15 08:01:00 UTC"),
        (b"heartbeat|0", heartbeat(), "heartbeat", None, "offset 1"),
        (b"heartbeat|4", heartbeat(of_tenants=False), "heartbeat", None, "that span tenants"),
        (key_of(), None, "lifted", "tenant_id=acme", "policy p, budget r: no decision stands"),
        (b"lease|p|b|tenant_id=acme|d|gw|e1", None, "lifted", "tenant_id=acme",
         "gw holds nothing of budget b in d"),
        (key_of(scope="model=a|b"), None, "lifted", "model=a|b", "no decision stands"),
        (rule_key(), None, "lifted", None, "policy p, budget b in partition 0"),
        (b"\xff", None, "lifted", None, "�"),
        (key_of(), b"garbage", "unreadable", None, "cannot be read: not_single_object"),
    ],
)  # fmt: skip
def test_every_message_has_a_line(
    key: bytes, value: bytes | None, kind: str, scope: str | None, said: str
) -> None:
    """Kind, scope and a sentence, whatever stands on the topic."""
    told = line(key, value)
    assert (told.kind, told.scope, told.partition, told.offset) == (kind, scope, 2, 9)
    assert said in told.sentence
    assert str(told).startswith("2027-01-15 08:00:00 UTC  ")


def test_what_spans_tenants_is_told_to_each_of_them() -> None:
    """It reads "all tenants" and concerns any scope."""
    told = line(key_of(scope=""), decision(scope={}))
    assert "  all tenants  block  " in str(told)
    assert told.concerns({"tenant_id": "acme"}) and told.concerns({})
    about = line(key_of(scope="model=m"), decision(scope={"model": "m"}))
    assert "  model=m  " in str(about) and about.concerns({"tenant_id": "acme"})
    assert not about.concerns({"tenant_id": "acme", "model": "other"})


def test_a_line_concerns_what_its_scope_allows() -> None:
    """Fields that one of both leaves open fit; a value that differs does not."""
    told = line(key_of(), decision())
    assert told.concerns({}) and told.concerns({"tenant_id": "acme", "model": "m"})
    assert not told.concerns({"tenant_id": "other"})
    assert line(b"h", heartbeat()).concerns({"tenant_id": "other"})


def test_shadow_decisions_are_marked() -> None:
    """The action says that nobody obeys it."""
    assert line(key_of(), decision(mode="shadow")).action == "block (shadow)"
