"""Why a scope is treated as it is: each decision told with its evidence and what would lift it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from sluice.admission.decision import Decision
from sluice.admission.sentences import Explained, explain, explained, utc
from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_ladder import BudgetLadder, RiskLadder, Section
from sluice.steering.amounts import EVERY_SCOPE, amount_text, plain_amount, rounded_up, whose
from sluice.steering.control import Standing, read_key
from sluice.steering.ledgers import LedgerName, LedgerView
from sluice.steering.versions import Published

_SECTIONS = (BudgetLadder.name, RiskLadder.name)


class Told(NamedTuple):
    """One decision for people and programs; instants µs UTC.

    `status` is one of: in_force, shadow, expired, not_yet, replaced, lifted. `ways_out` says what
    would lift it, a sentence each.
    """

    status: str
    sentence: str
    record: Mapping[str, Any]
    ways_out: tuple[str, ...]
    ended_at: int | None = None
    ended_by: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The decision for programs; parameters without a value are left out."""
        record = dict(self.record)
        for part in ("params", "scope"):
            if isinstance(record.get(part), Mapping):
                record[part] = {k: v for k, v in record[part].items() if v not in (None, [])}
        return {"status": self.status, "sentence": self.sentence, **record,
                "ways_out": list(self.ways_out), "ended_at": self.ended_at,
                "ended_by": self.ended_by}  # fmt: skip


class Known(NamedTuple):
    """What explains decisions beside their own words: the control topic, ledgers, policies."""

    standing: Standing
    ledgers: Mapping[LedgerName, LedgerView]
    policies: Mapping[tuple[str, str], Policy]


def known(
    standing: Standing, ledgers: Iterable[LedgerView] = (), versions: Iterable[Published] = ()
) -> Known:
    """Ledgers by name, policies by id and version."""
    policies = {(policy.policy_id, policy.version): policy for policy, _ in versions}
    return Known(standing, {ledger.name: ledger for ledger in ledgers}, policies)


def tell_scope(of: Known, scope: dict[str, str], now: int) -> list[Told]:
    """Every decision that can meet a request of `scope`, strictest first, shadow ones last."""
    found = explain(of.standing.state.decisions.values(), scope, now)
    return [_told(of, entry, now) for entry in found]


def tell_decision(of: Known, decision_id: str, now: int) -> Told | None:
    """The decision of that id, if the control topic still holds it."""
    for decision in of.standing.state.decisions.values():
        if decision.decision_id == decision_id:
            return _told(of, explained(decision, now), now)
    return None


def tell_stored(row: Mapping[str, Any], successor: Mapping[str, Any] | None, now: int) -> Told:
    """A decision that only ClickHouse knows, as decisions_log has it: why it ended, and when."""
    status, ended_at, ended_by = "expired", row["expires_at"], None
    if successor is not None:
        status, ended_at, ended_by = "replaced", successor["issued_at"], successor["decision_id"]
    elif row["lifted_at"] is not None:
        status, ended_at = "lifted", row["lifted_at"]
    elif now < row["expires_at"]:
        status, ended_at = "replaced", None
    when = "" if ended_at is None else f" {utc(ended_at)}"
    head = f"{row['action']} for {whose(row['scope'])}, {status}{when}"
    by = f" by {ended_by}" if ended_by else ""
    source = f"policy {row['policy_id']} {row['policy_version']}, rule {row['rule_id']}"
    sentence = f"{head}{by} ({source}): {row['reason']}"
    return Told(status, sentence, row, (), ended_at, ended_by)


def _told(of: Known, entry: Explained, now: int) -> Told:
    decision = entry.decision
    record = of.standing.records[decision.key]
    status = _status(decision, in_force=entry.in_force, now=now)
    return Told(status, entry.sentence, record, tuple(_ways_out(of, decision, record, now)))


def _status(decision: Decision, *, in_force: bool, now: int) -> str:
    if decision.shadow:
        return "shadow"
    if in_force:
        return "in_force"
    return "not_yet" if now < decision.starts_at else "expired"


def _ways_out(of: Known, decision: Decision, record: Mapping[str, Any], now: int) -> Iterable[str]:
    """What would end a decision, the mildest first; nothing where it limits nothing."""
    if decision.shadow or decision.published_action == "allow":
        return
    policy = of.policies.get((decision.policy_id, decision.policy_version))
    if decision.rule_id in _SECTIONS:
        section = None if policy is None else getattr(policy, decision.rule_id)
        yield _easing(section, record["evidence"])
    elif now < decision.expires_at:
        yield _expiry(decision)
    key = read_key(decision.key)
    ledger = of.ledgers.get(LedgerName(*key[1:4])) if key else None
    raised = None if ledger is None else _raise(decision, record, ledger)
    if raised is not None:
        yield raised
    yield f"taking the policy out of force: sluice policy withdraw {decision.policy_id}"


def _easing(section: Section | None, evidence: Mapping[str, Any]) -> str:
    """A decision of a ladder is renewed for as long as its signal lasts."""
    if section is None:
        return "its signal staying low; until then it is renewed before it ends"
    below = amount_text(int(section.exit * evidence["limit"]), evidence["unit"])
    return (f"its signal staying below {below} for {section.keep_s} s, then a rung less every "
            f"{section.dwell_s} s; until then it is renewed before it ends")  # fmt: skip


def _expiry(decision: Decision) -> str:
    at = utc(decision.expires_at)
    after = decision.expired_effect
    if after is None:
        return f"it ends by itself at {at}"
    if after.stale and after.refuses:
        return f"it does not end by itself: from {at} on its scope is refused until it is renewed"
    return f"it does not end by itself at {at}: it holds until it is replaced"


def _raise(decision: Decision, record: Mapping[str, Any], ledger: LedgerView) -> str | None:
    """The raise of the limit after which the spend is below the decision's threshold again."""
    add = needed_raise(record["evidence"], ledger)
    if add is None:
        return None
    unit = ledger.unit
    above = amount_text(ledger.limit + rounded_up(add, unit), unit)
    scope = ledger.name.scope or EVERY_SCOPE
    scope = f"'{scope}'" if "%" in scope else scope
    command = f"sluice budget raise {decision.policy_id} {decision.rule_id} --scope {scope}"
    return f"a limit of {above}: {command} --add {plain_amount(add, unit)} --until ... --reason ..."


def needed_raise(evidence: Mapping[str, Any], ledger: LedgerView) -> int | None:
    """The smallest amount that a limit has to grow by until the threshold is not reached any more.

    A threshold is a share of the limit, so with a spend of s, a limit of l and a threshold of t the
    new limit has to be above s * l / t. None where the evidence is of another period or unit, or
    the threshold does not depend on the limit.
    """
    if (evidence["window"], evidence["unit"]) != (ledger.period, ledger.unit):
        return None
    threshold = evidence["limit"]
    if not 0 < threshold <= ledger.limit:
        return None
    least = Fraction(ledger.settled * ledger.limit, threshold)
    return max(0, least.numerator // least.denominator + 1 - ledger.limit)
