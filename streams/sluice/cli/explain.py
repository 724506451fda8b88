"""Commands that tell what enforcement does and why: explain, watch."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice.cli.common import EXIT_NO, Dir, Json, print_json, reachable, say, table
from sluice.errors import ConfigError

if TYPE_CHECKING:
    from sluice.settings import Settings
    from sluice.steering.bounds import Bound, Ceiling
    from sluice.steering.explaining import Told

Scope = Annotated[
    str | None,
    typer.Option(help="Whom it is about: tenant_id=acme,model=gpt-4o; all = all tenants."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("explain")(explain)
    app.command("watch")(watch)


def explain(
    decision_id: Annotated[
        str | None, typer.Argument(help="A decision, as a refusal names it.")
    ] = None,
    scope: Scope = None,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Tell what is in force about a scope, why, until when, what would lift it and the worst case.

    Past decisions come from ClickHouse; without it the command tells what the control topic holds.
    Exit code 1 when no decision has that id.

    Example: sluice explain --scope tenant_id=acme

    Example: sluice explain --scope all

    Example: sluice explain 5d0bb1c5-6e0c-2f7a-9d7e-7b1a6a0f2c11
    """
    if (decision_id is None) == (scope is None):
        raise ConfigError("give either a decision's id or --scope tenant_id=acme")
    settings = reachable(dir)
    if decision_id is not None:
        _explain_decision(settings, decision_id, as_json=as_json)
    else:
        _explain_scope(settings, scope or "", as_json=as_json)


def _explain_scope(settings: Settings, text: str, *, as_json: bool) -> None:
    from sluice.steering.amounts import read_scope, whose
    from sluice.steering.bounds import bounds, ceilings
    from sluice.steering.control import read_control
    from sluice.steering.explaining import known, tell_scope
    from sluice.steering.reading import read_ledgers
    from sluice.steering.stored import Stored
    from sluice.steering.versions import read_versions
    from sluice.wire.scopes import scope_text

    scope, now = read_scope(text), time.time_ns() // 1000
    standing = read_control(settings)
    with closing(Stored(settings)) as stored:
        ledgers = read_ledgers(settings, stored, scope.get("tenant_id")).current()
        history = stored.decisions(scope=scope)
        found = bounds(standing, ledgers, scope, stored.loop_delay_us(), now,
                       settings.share_delay_ms * 1000)  # fmt: skip
    most = ceilings(standing, found, scope)
    told = tell_scope(known(standing, ledgers, read_versions(settings)), scope, now)
    if as_json:
        print_json({"scope": scope, "at": now, "decisions": [t.as_dict() for t in told],
                    "bounds": [b.as_dict() for b in found],
                    "ceilings": [c.as_dict() for c in most], "history": history,
                    "clickhouse": stored.note or "asked"})  # fmt: skip
        return
    name = whose(scope_text(scope.items()))
    _show_told(told, f"nothing is decided about {name}")
    _show_bounds(found)
    _show_ceilings(most, name)
    _show_history(history, stored.note)


def _explain_decision(settings: Settings, decision_id: str, *, as_json: bool) -> None:
    from sluice.steering.control import read_control
    from sluice.steering.explaining import known, tell_decision, tell_stored
    from sluice.steering.reading import read_ledgers
    from sluice.steering.stored import Stored
    from sluice.steering.versions import read_versions

    now = time.time_ns() // 1000
    with closing(Stored(settings)) as stored:
        ledgers = read_ledgers(settings, stored).current()
        of = known(read_control(settings), ledgers, read_versions(settings))
        told = tell_decision(of, decision_id, now)
        if told is None:
            rows = stored.decisions(decision_id=decision_id, most=1)
            told = tell_stored(rows[0], stored.successor(decision_id), now) if rows else None
    if as_json:
        print_json({"decision_id": decision_id, "decision": told and told.as_dict(),
                    "clickhouse": stored.note or "asked"})  # fmt: skip
    elif told is None:
        unasked = f"; {stored.note}" if stored.note else ""
        say(f"no decision has the id {decision_id}{unasked}")
    else:
        _show_told([told], "")
    if told is None:
        raise typer.Exit(EXIT_NO)


def _show_told(told: list[Told], otherwise: str) -> None:
    from sluice.admission.sentences import utc
    from sluice.steering.amounts import amount_text

    if not told:
        say(otherwise)
    for entry in told:
        record = entry.record
        evidence = record.get("evidence") or {**record, "limit": record["threshold"]}
        observed, threshold = (
            amount_text(evidence[name], evidence["unit"]) for name in ("observed", "limit")
        )
        since = f"({record['reason_code']}), since {utc(record['issued_at'])}"
        say(entry.sentence)
        say(f"  decision {record['decision_id']} {since}")
        say(f"  evidence: {observed} in {evidence['window']}, threshold {threshold}")
        for way in entry.ways_out:
            say(f"  lifted by: {way}")


def _show_bounds(found: list[Bound]) -> None:
    from sluice.steering.amounts import amount_text, percent_text

    if not found:
        say("no budget has a ledger about it yet")
        return
    rows = []
    for bound in found:
        ledger, unit = bound.ledger, bound.ledger.unit
        shown = (ledger.limit, ledger.settled, ledger.reserved, ledger.presumed, ledger.remaining)
        rows.append((
            ledger.name.budget_id, bound.whose, ledger.period,
            "hard" if bound.hard else "soft", *(amount_text(amount, unit) for amount in shown),
            percent_text(ledger.settled, ledger.limit), ledger.state,
        ))  # fmt: skip
    columns = ("budget", "scope", "period", "kind", "limit", "settled", "granted", "presumed",
               "remaining", "used", "state")  # fmt: skip
    table("Upper bounds", columns, rows)
    for bound in found:
        say(f"{bound.ledger.name.budget_id} of {bound.whose}: {bound.sentence}")
        for grant in bound.grants:
            say(f"  lease of {grant.holder}: {amount_text(grant.granted_total, bound.ledger.unit)}")


def _show_ceilings(most: list[Ceiling], name: str) -> None:
    from sluice.admission.sentences import utc
    from sluice.steering.amounts import amount_text

    for ceiling in most:
        amount = amount_text(ceiling.amount, ceiling.unit)
        until = "within its length" if ceiling.until is None else f"until {utc(ceiling.until)}"
        source = f"budget {ceiling.bound.ledger.name.budget_id} of {ceiling.bound.whose}"
        say(f"{name} as a whole: at most {amount} more {until}, by {source}, beside what is in "
            "flight")  # fmt: skip


def _show_history(history: list[dict[str, Any]] | None, note: str | None) -> None:
    from sluice.admission.sentences import utc

    if history is None:
        say(f"no history: {note}")
    elif history:
        rows = [(utc(row["issued_at"]), row["action"], row["mode"], row["reason"])
                for row in history]  # fmt: skip
        table("Decisions so far, newest first", ("issued", "action", "mode", "reason"), rows)


def watch(
    scope: Scope = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="decision, budget, lease, heartbeat, lifted, unreadable; repeatable."),
    ] = None,
    standing: Annotated[
        bool, typer.Option("--standing", help="Begin with what the topic holds already.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="End after so long (default: Ctrl-C).", min=0)
    ] = None,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Follow the control topic, a line per message; heartbeats only if --kind names them.

    With --json one JSON object a line.

    Example: sluice watch --scope tenant_id=acme --kind decision
    """
    from sluice.steering.amounts import read_scope
    from sluice.steering.following import ALL_KINDS, follow_control

    kinds = set(kind or ALL_KINDS) - (set() if kind else {"heartbeat"})
    unknown = sorted(kinds - set(ALL_KINDS))
    if unknown:
        raise ConfigError(f"--kind {unknown[0]} is none of {', '.join(ALL_KINDS)}")
    wanted = read_scope(scope or "")
    try:
        for line in follow_control(reachable(dir), standing=standing, seconds=seconds):
            if line.kind in kinds and line.concerns(wanted):
                text = json.dumps(line._asdict(), default=str) if as_json else str(line)
                print(text, flush=True)
    except KeyboardInterrupt:
        raise typer.Exit from None
