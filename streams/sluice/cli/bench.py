"""Commands of `sluice bench`: one per benchmark, each prints its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.common import Json, console, print_json, table, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluice.bench.figures import Report
    from sluice.bench.ground import Ground

app = typer.Typer(no_args_is_help=True)

Events = Annotated[int, typer.Option(help="Usage events of the workload.", min=100)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same events.", min=0)]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder of encoded workloads (default: in the user's cache folder)."),
]


def register(program: typer.Typer) -> None:
    """Add the group to the program."""
    program.add_typer(app, name="bench", help="Measure this machine; a missed reach is no error.")


@app.callback()
def bench() -> None:
    """Measure this machine; a missed reach is no error, a wrong sum is."""


@app.command()
def warehouse(
    events: Annotated[int, typer.Option(help="Generated usage events.", min=1)] = 10_000_000,
    days: Annotated[int, typer.Option(help="Days that they spread over.", min=1)] = 35,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Rows and bytes per event in ClickHouse, and how long the cookbook takes.

    Example: sluice bench warehouse --events 1000000 --json
    """
    from sluice.bench.usage_data import Scale, until_now
    from sluice.bench.warehouse import run

    show(run(Scale(events, days, until_now(), seed), tell), as_json=as_json)


@app.command()
def throughput(
    events: Events = 200_000,
    peer_events: Annotated[int, typer.Option(help="Events for the peer.", min=100)] = 30_000,
    seed: Seed = 1,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Events per CPU second of a meter, beside the machine's limit and a stock Faust agent.

    Example: sluice bench throughput --events 1000000 --json
    """
    from sluice.bench.throughput import run

    _on_ground(
        lambda ground: run(ground, events, peer_events, seed, _folder(cache)), as_json=as_json
    )


@app.command()
def latency(
    events: Events = 200_000,
    trials: Annotated[int, typer.Option(help="Single events that are timed.", min=2)] = 300,
    seed: Seed = 1,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """From usage to a readable decision: idle, and at half of the maximum throughput.

    Example: sluice bench latency --trials 1000 --json
    """
    from sluice.bench.latency import run

    _on_ground(lambda ground: run(ground, events, trials, seed, _folder(cache)), as_json=as_json)


@app.command()
def recovery(
    rows: Annotated[int, typer.Option(help="Open window rows.", min=0)] = 1_000_000,
    ledgers: Annotated[int, typer.Option(help="Budgets of tenants.", min=0)] = 100_000,
    as_json: Json = False,
) -> None:
    """How long a meter takes to have its state back, and the memory that it takes.

    Example: sluice bench recovery --json
    """
    from sluice.bench.recovery import Size, run

    _on_ground(lambda ground: run(ground, Size(rows, ledgers)), as_json=as_json)


@app.command()
def emitter(events: Events = 100_000, seed: Seed = 1, as_json: Json = False) -> None:
    """What emitting costs a gateway: one core, with the write-ahead log.

    Example: sluice bench emitter --json
    """
    from sluice.bench.emitter import run

    _on_ground(lambda ground: run(ground, events, seed), as_json=as_json)


@app.command()
def admit(
    scopes: Annotated[
        int, typer.Option(help="Tenants, with ten decisions each.", min=100)
    ] = 10_000,
    calls: Annotated[int, typer.Option(help="Requests asked from one thread.", min=2000)] = 50_000,
    seconds: Annotated[float, typer.Option(help="Of asking from many threads.", min=0.5)] = 5.0,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """What admission costs a gateway: asking, reserving, a cold start; needs no broker.

    Example: sluice bench admit --json
    """
    from sluice.bench.admit import run

    show(run(scopes, calls, seconds, seed, tell), as_json=as_json)


@app.command()
def overshoot(
    gateways: Annotated[int, typer.Option(help="Gateways beside each other.", min=1)] = 8,
    requests: Annotated[
        int, typer.Option(help="Requests of the packaged trace.", min=50, max=1500)
    ] = 1500,
    speed: Annotated[float, typer.Option(help="How much faster it is played.", min=1)] = 20.0,
    trials: Annotated[int, typer.Option(help="Breaches of soft budgets.", min=2)] = 200,
    as_json: Json = False,
) -> None:
    """Overspend and rest of hard budgets under a real trace; how soon every gateway obeys.

    Example: sluice bench overshoot --json
    """
    from sluice.bench.overshoot import Size, run

    size = Size(gateways, requests, speed, trials)
    _on_ground(lambda ground: run(ground, size), as_json=as_json)


@app.command()
def sink(
    events: Events = 200_000, seed: Seed = 1, cache: Cache = None, as_json: Json = False
) -> None:
    """How fast a backlog of usage and windows gets into the embedded ClickHouse.

    Example: sluice bench sink --json
    """
    from sluice.bench.sink import run

    _on_ground(lambda ground: run(ground, events, seed, _folder(cache)), as_json=as_json)


@app.command()
def scale(
    events: Events = 200_000,
    workers: Annotated[int, typer.Option(help="Meters beside each other.", min=2, max=4)] = 2,
    seed: Seed = 1,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """What further meters add on this machine.

    Example: sluice bench scale --workers 4 --json
    """
    from sluice.bench.scale import run

    _on_ground(lambda ground: run(ground, events, workers, seed, _folder(cache)), as_json=as_json)


@app.command()
def control(
    queue_timeout: Annotated[
        float, typer.Option(help="Seconds after which a wait at the gateway is refused.", min=1)
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """What light tenants wait and what is refused when a few heavy ones overload a server.

    A simulation of the packaged trace: no limit, a fixed limit, a fair queue at a granted rate.

    Example: sluice bench control --json
    """
    from sluice.bench.control import run

    show(run(queue_timeout), as_json=as_json)


def _on_ground(measure: Callable[[Ground], Report], *, as_json: bool) -> None:
    """Measure on a broker of its own and print the report."""
    from sluice.bench.ground import Ground

    with Ground(tell) as ground:
        report = measure(ground)
    show(report, as_json=as_json)


def _folder(given: Path | None) -> Path:
    from sluice.local.jars import cache_dir

    return given or cache_dir() / "bench"


def show(report: Report, *, as_json: bool) -> None:
    """Print a report."""
    if as_json:
        print_json(report.as_dict())
        return
    rows = [(f.name, f.value, f.unit, _reach(f.reach, at_least=f.at_least),
             {None: "-", True: "yes", False: "NO"}[f.met]) for f in report.figures]  # fmt: skip
    table(report.benchmark, ("figure", "value", "unit", "reach", "met"), rows)
    if report.details:
        columns = tuple(report.details[0])
        table("Details", columns, [tuple(line.values()) for line in report.details])
    console.print(", ".join(f"{k} {v}" for k, v in report.machine.items()), markup=False)


def _reach(reach: float | None, *, at_least: bool) -> str:
    if reach is None:
        return "-"
    return f"{'at least' if at_least else 'at most'} {reach:,}"
