"""Commands about baselines: what cohorts normally cost."""

from __future__ import annotations

from typing import Any

import typer

from sluice.cli.common import Dir, Json, console, print_json, settings_of, table
from sluice.errors import ConfigError
from sluice.money import format_usd

baseline_app = typer.Typer(help="Baselines: what cohorts normally cost, behind every tail label.",
                           no_args_is_help=True)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(baseline_app, name="baseline")


@baseline_app.command("show")
def show(dir: Dir = None, as_json: Json = False) -> None:
    """Show the newest published baseline; none means that the packaged one labels everything.

    Example: sluice baseline show
    """
    from sluice.runtime.baselining import published_baseline

    _tell(published_baseline(settings_of(dir)), as_json=as_json)


@baseline_app.command("refresh")
def refresh(dir: Dir = None, as_json: Json = False) -> None:
    """Make a baseline from everything measured so far, publish it and switch it on.

    The rollup does this by itself whenever an hour has closed. A cohort needs 200 events (an
    agent's tasks 30); a threshold moves by at most 20 % against the baseline before.

    Example: sluice baseline refresh
    """
    from sluice.runtime.baselining import baseline_now
    from sluice.runtime.publish import publish_baseline

    settings = settings_of(dir)
    baseline = baseline_now(settings)
    if not baseline.norms:
        raise ConfigError("no cohort has 200 priced events yet: the packaged baseline stays")
    publish_baseline(settings, baseline)
    _tell(baseline, as_json=as_json)


def _tell(baseline: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(None if baseline is None else {
            "version": baseline.version, "computed_to": baseline.computed_to,
            "norms": [{"cohort": slot, **norm._asdict()} for slot, norm in baseline.norms.items()],
        })  # fmt: skip
        return
    if baseline is None:
        console.print("no baseline was published yet: the packaged one labels all events")
        return
    rows = [(*("any" if part is None else part for part in slot), norm.events,
             format_usd(norm.q50_pusd), format_usd(norm.q95_pusd))
            for slot, norm in baseline.norms.items()]  # fmt: skip
    columns = ("operation", "model", "input", "tool or agent", "events", "p50 USD", "p95 USD")
    table(f"Baseline {baseline.version}", columns, rows)
