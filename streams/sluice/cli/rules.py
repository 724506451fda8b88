"""Commands about rules: settings, policies, price books."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sluice.cli import policies
from sluice.cli.common import EXIT_NO, Dir, Json, console, print_json, settings_of, table, text_of
from sluice.errors import ConfigError
from sluice.money import format_usd

File = Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False)]

policy_app = typer.Typer(help="Policies: check, apply, compare, try in shadow, go back.",
                         no_args_is_help=True)  # fmt: skip
prices_app = typer.Typer(help="Price books: import, check, apply, look up a model.",
                         no_args_is_help=True)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("settings")(settings)
    policies.register(policy_app)
    app.add_typer(policy_app, name="policy")
    app.add_typer(prices_app, name="prices")


def settings(dir: Dir = None, as_json: Json = False) -> None:
    """Print the effective settings, secrets hidden.

    Example: SLUICE_PARTITIONS=8 sluice settings
    """
    shown = settings_of(dir).shown()
    if as_json:
        print_json(shown)
    else:
        table("Settings (environment: SLUICE_<NAME>)", ("name", "value"),
              [(name, str(value)) for name, value in shown.items()])  # fmt: skip


@policy_app.command("check")
def policy_check(file: File, as_json: Json = False) -> None:
    """Validate a policy file; every fault is listed with its place, exit code 1.

    Example: sluice policy check infra/policies/tenant-budget.yaml
    """
    from sluice.enforcement.policy_file import PolicyError, explain, load_policy

    try:
        policy = load_policy(text_of(file), file.name)
    except PolicyError as error:
        _show_faults(file, [str(fault) for fault in error.faults], as_json=as_json)
        raise typer.Exit(EXIT_NO) from error
    if as_json:
        print_json({"ok": True, "policy_id": policy.policy_id, "version": policy.version})
        return
    console.print(f"{file}: policy {policy.policy_id} version {policy.version}", markup=False)
    for sentence in explain(policy):
        console.print(f"- {sentence}", markup=False)


@policy_app.command("apply")
def policy_apply(file: File, dir: Dir = None) -> None:
    """Validate a policy file, publish it and switch it on in every partition.

    Example: sluice policy apply infra/policies/tenant-budget.yaml
    """
    from sluice.enforcement.policy_file import load_policy
    from sluice.runtime.publish import publish_policy

    policy = load_policy(text_of(file), file.name)
    publish_policy(settings_of(dir), policy)
    console.print(f"in force: policy {policy.policy_id} version {policy.version}", markup=False)


@policy_app.command("withdraw")
def policy_withdraw(policy_id: str, dir: Dir = None) -> None:
    """Take a policy out of force; its decisions are lifted.

    Example: sluice policy withdraw tenant-budget
    """
    from sluice.runtime.publish import withdraw_policy

    withdraw_policy(settings_of(dir), policy_id)
    console.print(f"out of force: policy {policy_id}", markup=False)


def _show_faults(file: Path, faults: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"ok": False, "file": str(file), "faults": faults})
        return
    console.print(f"{file}: {len(faults)} fault(s), nothing applied", markup=False)
    for fault in faults:
        console.print(f"- {fault}", markup=False)


@prices_app.command("import")
def prices_import(
    file: File,
    out: Annotated[Path, typer.Option(help="Where the price book is written.")] = Path(
        "prices.json"
    ),
    as_json: Json = False,
) -> None:
    """Convert LiteLLM's model price file into a price book; what cannot be represented is listed.

    Example: sluice prices import model_prices_and_context_window.json --out prices.json
    """
    from sluice.metering.litellm import import_book

    report = import_book(file)
    out.write_text(report.book.to_json())
    skipped = [(name, reason) for name, reason in report.skipped]
    if as_json:
        print_json({"book_id": report.book.book_id, "version": report.book.version,
                    "loaded": report.loaded, "skipped": skipped, "out": str(out),
                    "not_represented": report.not_represented})  # fmt: skip
        return
    table("Not imported", ("entry", "reason"), skipped)
    console.print(f"{report.loaded} entries, {len(skipped)} not imported, "
                  f"{len(report.not_represented)} imported in part → {out} "
                  f"(version {report.book.version})", markup=False)  # fmt: skip


@prices_app.command("check")
def prices_check(file: File) -> None:
    """Validate a price book; every fault is listed with its place, exit code 1.

    Example: sluice prices check prices.json
    """
    from sluice.metering.prices import PriceBookError, load_book

    try:
        book = load_book(text_of(file))
    except PriceBookError as error:
        _show_faults(file, [str(fault) for fault in error.faults], as_json=False)
        raise typer.Exit(EXIT_NO) from error
    console.print(f"{file}: book {book.book_id} version {book.version}", markup=False)


@prices_app.command("apply")
def prices_apply(file: File, dir: Dir = None) -> None:
    """Validate a price book, publish it and switch it on in every partition.

    Example: sluice prices apply prices.json
    """
    from sluice.metering.prices import load_book
    from sluice.runtime.publish import publish_price_book

    book = load_book(text_of(file))
    publish_price_book(settings_of(dir), book)
    console.print(f"in force: price book {book.book_id} version {book.version}", markup=False)


@prices_app.command("show")
def prices_show(
    model: str,
    book: Annotated[
        Path | None, typer.Option(help="A price book file (default: packaged).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a model costs: per class, in US dollars for the unit that the class is priced in.

    Example: sluice prices show gpt-4o
    """
    from sluice.metering.classes import CLASSES
    from sluice.metering.prices import default_book, load_book

    chosen = default_book() if book is None else load_book(text_of(book))
    entry = chosen.find(model)
    if entry is None:
        raise ConfigError(
            f"{model} is not in price book {chosen.book_id}; see `sluice prices import`"
        )
    rates = entry.rates_pusd()
    if as_json:
        units = {name: CLASSES[name]._asdict() for name in rates}
        tiers = [{**tier._asdict(), "rates_pusd": dict(tier.rates_pusd)} for tier in entry.tiers]
        print_json({"model": model, "book": chosen.book_id, "version": chosen.version,
                    "rates_pusd": rates, "tiers": tiers, "units": units})  # fmt: skip
        return
    rows = [
        (tier.service_tier or "standard", tier.above_input_tokens, name,
         format_usd(rate * CLASSES[name].shown_for // CLASSES[name].per, 4),
         CLASSES[name].shown, CLASSES[name].unit)
        for tier in entry.tiers for name, rate in tier.rates_pusd.items()
    ]  # fmt: skip
    columns = ("service tier", "above input tokens", "class", "USD", "per", "counted in")
    table(f"{model} in {chosen.book_id} {chosen.version}", columns, rows)
