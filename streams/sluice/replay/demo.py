"""The demo: a stack, a policy, a real trace of 27 tenants, the result and its proof."""

from __future__ import annotations

from rich.console import Console

from sluice.enforcement.policy import Policy
from sluice.enforcement.policy_file import explain, load_policy
from sluice.local.specs import down, up
from sluice.local.stack import read_status
from sluice.metering.prices import PriceBook, default_book
from sluice.money import format_usd
from sluice.replay.arena import packaged_trace
from sluice.replay.command import replay_trace
from sluice.replay.events import MAX_OUTPUT_TOKENS
from sluice.replay.formats import ARENA_MODEL, ARENA_PROVIDER
from sluice.replay.run import new_run_id
from sluice.replay.screen import say
from sluice.resources import resource_dir
from sluice.runtime.publish import (
    price_book_in_force,
    publish_policy,
    publish_price_book,
    withdraw_policy,
)
from sluice.settings import Settings, load_settings
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records

_POLICY = "arena-demo.yaml"
_PREFIX = "arena-demo-"


def demo(settings: Settings, *, keep: bool, speed: float, gateways: int, as_json: bool) -> int:
    """Run the demo; returns 0 only if the totals are equal.

    Starts the stack in `settings.dir` unless it runs there, and stops what it started; `keep`
    leaves it up with the demo's policy in force, which is withdrawn otherwise.
    """
    console = Console(stderr=True)
    ran_before = read_status(settings.dir).running
    if not ran_before:
        up(settings, settings.dir, tell=lambda text: say(console, text))
    running = load_settings(settings.dir)
    try:
        return _play(running, console, speed, gateways, as_json=as_json)
    finally:
        _leave(running, console, keep=keep, ran_before=ran_before)


def _play(settings: Settings, console: Console, speed: float, gateways: int, *,
          as_json: bool) -> int:  # fmt: skip
    run_id = new_run_id()
    book, policy, trace = demo_book(settings), demo_policy(run_id), packaged_trace()
    withdraw_demo_policies(settings)
    publish_policy(settings, policy)
    say(console, f"Prices: {_priced(book)}")
    for sentence in explain(policy):
        say(console, f"Policy: {sentence}")
    tenants = len({request.tenant_id for request in trace.requests})
    say(console, f"Replaying {len(trace.requests):,} measured requests of {tenants} tenants (VTC "
                  f"arena trace) through {gateways} gateway processes at {speed:g}x; every request "
                  f"declares max_tokens {MAX_OUTPUT_TOKENS:,}")  # fmt: skip
    return replay_trace(settings, trace, book, speed=speed, gateways=gateways, as_json=as_json,
                        run_id=run_id)  # fmt: skip


def demo_policy(run_id: str) -> Policy:
    """The arena policy under an id of this run's own: each demo starts with nothing spent."""
    path = resource_dir("infra") / "policies" / _POLICY
    policy = load_policy(path.read_text(), path.name)
    return Policy(policy_id=f"{_PREFIX}{run_id}", mode=policy.mode, budgets=policy.budgets)


def withdraw_demo_policies(settings: Settings) -> None:
    """Take the policies of all demos out of force."""
    records = committed_records(settings, topics(settings).policy)
    found = {decode(record.value)[1]["policy_id"] for record in records if record.value}
    for policy_id in sorted(found):
        if policy_id.startswith(_PREFIX):
            withdraw_policy(settings, policy_id)


def demo_book(settings: Settings) -> PriceBook:
    """The book in force where it prices the arena's model, else the packaged one, published."""
    book = price_book_in_force(settings)
    if book is None or book.find(ARENA_MODEL, ARENA_PROVIDER) is None:
        book = default_book()
        publish_price_book(settings, book)
    return book


def _priced(book: PriceBook) -> str:
    entry = book.find(ARENA_MODEL, ARENA_PROVIDER)
    rates = entry.rates_pusd() if entry else {}
    shown = ", ".join(f"{name} {format_usd(rate * 10**6, 2)}" for name, rate in rates.items())
    return (f"entry {ARENA_MODEL} of book {book.book_id} {book.version}: {shown} USD per million "
            "tokens")  # fmt: skip


def _leave(settings: Settings, console: Console, *, keep: bool, ran_before: bool) -> None:
    if keep:
        _look_around(settings, console)
        return
    try:
        # Its limits are for the arena's tenants, and would hold for everybody's.
        withdraw_demo_policies(settings)
    finally:
        if not ran_before:
            down(settings.dir, tell=lambda text: say(console, text))
    if ran_before:
        say(console, "The demo's policy is withdrawn; the stack that ran before runs on.")


def _look_around(settings: Settings, console: Console) -> None:
    where = "" if str(settings.dir) == ".sluice" else f" --dir {settings.dir}"
    say(console, "The stack is up and the demo's policy in force. Look around:", "bold")
    for command in (
        'sluice sql "SELECT * FROM spend_by_tenant"',
        'sluice sql "SELECT issued_at, tenant_id, action, reason FROM decisions_log"',
        'sluice sql "SELECT * FROM refusals"', "sluice status", "sluice down",
    ):  # fmt: skip
        say(console, f"  {command}{where}")
