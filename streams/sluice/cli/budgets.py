"""Commands about budgets: what is left of them, and more room for a while."""

from __future__ import annotations

import getpass
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli.common import (
    EXIT_NO,
    Dir,
    Json,
    instant,
    print_json,
    reachable,
    say,
    table,
)

if TYPE_CHECKING:
    from sluice.settings import Settings
    from sluice.steering.ledgers import LedgerView

app = typer.Typer(help="Budgets: what is left, what comes, more room for a while.",
                  no_args_is_help=True)  # fmt: skip
Scope = Annotated[
    str, typer.Option(help="Whom it is about, such as tenant_id=acme; all = all tenants.")
]
Policy = Annotated[str | None, typer.Option("--policy", help="Only of this policy.")]


def register(program: typer.Typer) -> None:
    """Add the group to the program."""
    program.add_typer(app, name="budget")


@app.command("list")
def list_budgets(
    scope: Scope = "", policy: Policy = None, dir: Dir = None, as_json: Json = False
) -> None:
    """List every budget and scope in its newest period: limit, spend, what is left, what comes.

    Example: sluice budget list --scope tenant_id=acme
    """
    found = _ledgers(reachable(dir), None, scope, policy)
    if as_json:
        print_json([ledger.as_dict() for ledger in found])
    else:
        _show(found)


@app.command("show")
def show(
    budget_id: str, scope: Scope = "", policy: Policy = None, dir: Dir = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show one budget: each scope with its burn, its forecast, its decision.

    Exit code 1 where nothing was charged to it yet.

    Example: sluice budget show tenant-month --scope tenant_id=acme
    """
    found = _ledgers(reachable(dir), budget_id, scope, policy)
    if as_json:
        print_json([ledger.as_dict() for ledger in found])
    else:
        _show(found)
        for ledger in found:
            _show_details(ledger)
    if not found:
        raise typer.Exit(EXIT_NO)


def _ledgers(
    settings: Settings, budget_id: str | None, scope: str, policy: str | None
) -> list[LedgerView]:
    from sluice.steering.amounts import read_scope, touches
    from sluice.steering.reading import read_ledgers
    from sluice.steering.stored import Stored

    wanted = read_scope(scope)
    with closing(Stored(settings)) as stored:
        ledgers = read_ledgers(settings, stored, wanted.get("tenant_id")).current()
    return [
        ledger for ledger in ledgers
        if budget_id in (None, ledger.name.budget_id) and policy in (None, ledger.name.policy_id)
        and touches(ledger.fields, wanted)
    ]  # fmt: skip


def _show(found: list[LedgerView]) -> None:
    from sluice.steering.amounts import amount_text, percent_text

    if not found:
        say("nothing was charged to such a budget yet")
        return
    rows = [
        (*ledger.name[:2], ledger.whose, ledger.period,
         *(amount_text(amount, ledger.unit)
           for amount in (ledger.limit, ledger.settled, ledger.remaining, ledger.forecast)),
         percent_text(ledger.settled, ledger.limit), ledger.state)
        for ledger in found
    ]  # fmt: skip
    columns = ("policy", "budget", "scope", "period", "limit", "settled", "remaining", "forecast",
               "used", "state")  # fmt: skip
    table("Budgets", columns, rows)


def _show_details(ledger: LedgerView) -> None:
    from sluice.admission.sentences import utc
    from sluice.steering.amounts import amount_text

    def amounts(pairs: Any) -> str:
        return ", ".join(f"{name} {amount_text(amount, ledger.unit)}" for name, amount in pairs)

    period = f"{utc(ledger.period_start)} to {utc(ledger.period_end)}"
    counts = f"{ledger.events:,} events, {ledger.unpriced:,} without a price"
    say(f"{ledger.whose}, {period}: {counts}")
    held = [("granted", ledger.reserved), ("presumed", ledger.presumed),
            ("corrected", ledger.corrected)]  # fmt: skip
    say(f"  {amounts(held)}")
    if ledger.burn:
        say(f"  used in the last {amounts(ledger.burn.items())}")
    if ledger.exhausted_at is not None:
        say(f"  the limit is expected to be reached at {utc(ledger.exhausted_at)}")
    if ledger.decision_id is not None:
        say(f"  why it is limited: sluice explain {ledger.decision_id}")


@app.command("raise")
def raise_budget(
    policy_id: str,
    budget_id: str,
    scope: Annotated[str, typer.Option(help="Whose limit grows, such as tenant_id=acme; all.")],
    add: Annotated[str, typer.Option(help="By how much, in the budget's unit.")],
    until: Annotated[str, typer.Option(help="When it ends: 2026-10-01, 2026-10-01T12:00:00Z.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the policy version.")],
    by: Annotated[str | None, typer.Option(help="Who; default: the user's name.")] = None,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Give one scope of a budget more room until an instant, as a new version of the policy.

    Who, why and how much stand in that version; `sluice policy diff` shows it, `sluice policy
    rollback` takes it back.

    Example: sluice budget raise tenant-budget tenant-month --scope tenant_id=acme --add 20
    --until 2026-12-01 --reason "launch week"
    """
    from sluice.runtime.publish import publish_policy
    from sluice.steering.amounts import amount_text, read_scope, whose
    from sluice.steering.versions import current, raised, read_versions
    from sluice.wire.scopes import scope_text

    settings = reachable(dir)
    if "=" in scope:
        scope = scope_text(read_scope(scope).items())
    policy = current(read_versions(settings), policy_id)
    made = raised(policy, budget_id, scope, add, instant(until, "--until"), by or _user(), reason,
                  time.time_ns() // 1000)  # fmt: skip
    publish_policy(settings, made.policy)
    if as_json:
        print_json({"policy_id": policy_id, "budget_id": budget_id, "scope": made.scope,
                    "unit": made.unit, "limit_before": made.before, "limit_after": made.after,
                    "version_before": policy.version, "version": made.policy.version})  # fmt: skip
        return
    say(f"limit of {whose(made.scope, made.tenant_id)}: {amount_text(made.before, made.unit)} -> "
        f"{amount_text(made.after, made.unit)} until {until}")  # fmt: skip
    say(f"in force: policy {policy_id} version {made.policy.version} (before: {policy.version})")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
