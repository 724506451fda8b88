"""Laws of leases held: nothing beyond a grant is let in, and overshoot has a bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.admission.messages import NOW, budget_rule

from sluice.admission.accounts import Hold
from sluice.admission.budget_rule import read_rule
from sluice.admission.leases import Leases, claims_of, settle
from sluice.admission.verdict import AdmissionRequest
from sluice.wire.codec import decode

LIMITS = {"tenant": 100, "project": 60}
# One ledger over several: a tenant's over its projects, and that of all tenants over each.
SCOPES = {
    False: {"tenant": ["tenant_id"], "project": ["tenant_id", "project_id"]},
    True: {"tenant": [], "project": ["tenant_id"]},
}
RULES = {
    across: [
        read_rule(name.encode(), decode(budget_rule(budget_id=name, scope=scope))[1])
        for name, scope in scopes.items()
    ]
    for across, scopes in SCOPES.items()
}
TTL_US = 1000

# What happens: a request of a project with an estimate, the end of a running one with what it took,
# a grant, time going by.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from("ab"), st.integers(0, 50)),
        st.tuples(st.just("commit"), st.integers(0, 9), st.integers(0, 70)),
        st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("grant"), st.sampled_from(("tenant", "a", "b")), st.integers(0, 100)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, TTL_US)),
    ),
    max_size=60,
)


@dataclass
class Model:
    """The obvious way: every ledger is a list of what was let in and what it came to."""

    now: int = NOW
    granted: dict[str, tuple[int, int]] = field(default_factory=dict)
    running: list[tuple[str, int]] = field(default_factory=list)
    spent: list[tuple[str, int]] = field(default_factory=list)
    bound: int = 0

    def taken(self, ledger: str) -> int:
        """Spent and reserved in a ledger; the tenant's has all projects."""
        return sum(n for p, n in self.running + self.spent if ledger in ("tenant", p))

    def lets_in(self, project: str, amount: int) -> bool:
        """Whether both ledgers have a lease in force with so much left."""
        for ledger in ("tenant", project):
            granted, expires_at = self.granted.get(ledger, (0, 0))
            no_room = self.now >= expires_at or granted - self.taken(ledger) < amount
            if amount and no_room:
                return False
        return True


class Real:
    """The accounts of a point, driven like the model."""

    def __init__(self, *, across: bool) -> None:
        self.across = across
        self.leases = Leases("gw")
        self.grants: dict[bytes, Any] = {}
        self.running: list[list[Hold]] = []

    def reserve(self, project: str, amount: int, now: int) -> bool:
        tenant, project_id = (project, "chat") if self.across else ("acme", project)
        request = AdmissionRequest(tenant, project_id, "m", estimated_cost_pusd=amount)
        claims, doubts = claims_of(RULES[self.across], request, now)
        assert (len(claims), doubts) == (2, [])
        assert [claim.tenant_id for claim in claims] == ["" if self.across else tenant, tenant]
        holds, lacks = self.leases.hold(claims, self.grants, now)
        if not lacks:
            self.running.append(holds)
        return not lacks

    def grant(self, ledger: str, total: int, expires_at: int) -> None:
        project = "" if ledger == "tenant" else ledger
        name = "tenant" if ledger == "tenant" else "project"
        if self.across:
            scope = f"tenant_id={project}" if project else ""
        else:
            scope = f"project_id={project},tenant_id=acme" if project else "tenant_id=acme"
        key = f"lease|p|{name}|{scope}|2027-01-15|gw|".encode()
        self.grants[key] = {"unit": "pusd", "granted_total": total, "expires_at": expires_at}


@given(st.booleans(), steps)
def test_what_is_let_in_is_what_the_obvious_model_lets_in(
    across: bool, happened: list[tuple[str, Any, int]],
) -> None:  # fmt: skip
    """All or nothing over both ledgers, at every instant; and spend stays within its bound."""
    model, real, most = Model(), Real(across=across), {"tenant": 0, "a": 0, "b": 0}
    for what, which, amount in happened:
        if what == "reserve":
            assert real.reserve(which, amount, model.now) is model.lets_in(which, amount)
            if model.lets_in(which, amount):
                model.running.append((which, amount))
        elif what in ("commit", "release") and model.running:
            place = which % len(model.running)
            project, held = model.running.pop(place)
            usage = {"cost_pusd": amount, "outcome": "ok"} if what == "commit" else None
            for hold in real.running.pop(place):
                settle(hold, usage, 0, model.now)
            model.spent.append((project, amount if usage else 0))
            model.bound += max(0, amount - held) if usage else 0
        elif what == "grant":
            limit = LIMITS["tenant" if which == "tenant" else "project"]
            total = max(min(limit, amount), model.granted.get(which, (0, 0))[0])
            most[which] = max(most[which], total)
            model.granted[which] = (total, model.now + TTL_US)
            real.grant(which, total, model.now + TTL_US)
        elif what == "wait":
            model.now += amount
        for ledger, granted in most.items():
            assert model.taken(ledger) <= granted + model.bound, "overshoot beyond its bound"
    measured = max(0, model.taken("tenant") - most["tenant"])
    print(f"overshoot: measured {measured} / bound {model.bound}")
    for key, account in real.leases.accounts.items():
        ledger = key.scope.partition("=")[2][:1] if key.budget_id == "project" else "tenant"
        assert account.committed + account.reserved == model.taken(ledger)
