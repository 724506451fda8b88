"""Commands about versions of policies: list, diff, shadow, activate, rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.common import Dir, Json, print_json, reachable, say, table, text_of
from sluice.errors import ConfigError

if TYPE_CHECKING:
    from sluice.enforcement.policy import Policy
    from sluice.settings import Settings
    from sluice.steering.versions import Published

File = Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False)]


def register(policy_app: typer.Typer) -> None:
    """Add these commands to `sluice policy`."""
    policy_app.command("list")(list_versions)
    for command in (diff, shadow, activate, rollback):
        policy_app.command(command.__name__)(command)


def list_versions(dir: Dir = None, as_json: Json = False) -> None:
    """List published policy versions, newest first, and the partitions each is in force in.

    The last partition, beyond those of usage, is that of budgets that span tenants.

    Example: sluice policy list
    """
    from sluice.admission.sentences import utc
    from sluice.steering.control import read_control
    from sluice.steering.versions import in_force, read_versions, tellers

    settings = reachable(dir)
    places = in_force(read_control(settings))
    versions = read_versions(settings)
    where = [places.get((v.policy.policy_id, v.policy.version), []) for v in versions]
    if as_json:
        print_json([
            {**_named(v.policy), "mode": v.policy.mode, "published_at": v.published_at,
             "in_force": partitions}
            for v, partitions in zip(versions, where, strict=True)
        ])  # fmt: skip
        return
    rows = [
        (v.policy.policy_id, v.policy.version, v.policy.mode, utc(v.published_at),
         _places(partitions, tellers(v.policy, settings.partitions), settings.partitions))
        for v, partitions in zip(versions, where, strict=True)
    ]  # fmt: skip
    table("Policies", ("policy", "version", "mode", "published", "in force"), rows)


def _places(places: list[int], all_of_them: list[int], partitions: int) -> str:
    if all_of_them and places == all_of_them:
        return "yes"
    usage = ", ".join(str(place) for place in places if place != partitions)
    said = [f"in partitions {usage}"] if usage else []
    if partitions in places:
        said.append("budgets that span tenants")
    return "; ".join(said) or "-"


def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="A version, or a policy file.")],
    right: Annotated[str, typer.Argument(metavar="B", help="A version, or a policy file.")],
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Show what changes from policy A to policy B, a line per value.

    Example: sluice policy diff 3f2a infra/policies/tenant-budget.yaml
    """
    from sluice.steering.versions import differences, read_versions

    files = all(Path(named).is_file() for named in (left, right))
    published = [] if files else read_versions(reachable(dir))
    found = _policy(left, published), _policy(right, published)
    changes = differences(*found)
    if as_json:
        print_json({"a": _named(found[0]), "b": _named(found[1]), "equal": not changes,
                    "changes": [change._asdict() for change in changes]})  # fmt: skip
        return
    for sign, policy in zip(("---", "+++"), found, strict=True):
        say(f"{sign} {policy.policy_id} {policy.version}")
    for change in changes:
        for sign, value in (("-", change.before), ("+", change.after)):
            if value is not None:
                say(f"{sign} {change.path}: {value}")


def _policy(named: str, published: list[Published]) -> Policy:
    from sluice.enforcement.policy_file import load_policy
    from sluice.steering.versions import pick

    file = Path(named)
    return load_policy(text_of(file), file.name) if file.is_file() else pick(published, None, named)


def _named(policy: Policy) -> dict[str, str]:
    return {"policy_id": policy.policy_id, "version": policy.version}


def shadow(
    file: File,
    name: Annotated[
        str | None, typer.Option("--id", help="policy_id that it runs under instead of its own.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where that ends what is enforced now.")
    ] = False,
    dir: Dir = None,
    as_json: Json = False,
) -> None:
    """Publish a policy file in shadow: its decisions are published and stored, never obeyed.

    Under the id of a policy that is enforced it would take its place; give it another with --id.

    Example: sluice policy shadow infra/policies/tenant-budget.yaml --id tenant-budget-next
    """
    from sluice.enforcement.policy import Policy
    from sluice.enforcement.policy_file import load_policy
    from sluice.steering.control import read_control

    settings, written = reachable(dir), load_policy(text_of(file), file.name)
    value = written.model_dump(mode="json") | {"mode": "shadow"}
    if name is not None:
        value["policy_id"] = name
    try:
        policy = Policy.model_validate(value)
    except ValueError as error:
        raise ConfigError(f"--id {name} is no policy_id") from error
    rules = read_control(settings).state.budgets.in_force.values()
    enforced = {rule.policy_id for rule in rules if not rule.shadow}
    if policy.policy_id in enforced and not replace:
        raise ConfigError(
            f"policy {policy.policy_id} is enforced now and would end; give the shadow another "
            f"name with --id {policy.policy_id}-next, or add --replace"
        )
    _switch_on(settings, policy, as_json=as_json)


def activate(policy_id: str, version: str, dir: Dir = None, as_json: Json = False) -> None:
    """Switch a published version on; the first digits of it are enough.

    Example: sluice policy activate tenant-budget 3f2a
    """
    from sluice.steering.versions import pick, read_versions

    settings = reachable(dir)
    policy = pick(read_versions(settings), policy_id, version)
    _switch_on(settings, policy, as_json=as_json)


def rollback(policy_id: str, dir: Dir = None, as_json: Json = False) -> None:
    """Switch on the version that was in force before the present one; twice returns to it.

    Example: sluice policy rollback tenant-budget
    """
    from sluice.steering.versions import before, read_versions

    settings = reachable(dir)
    _switch_on(settings, before(read_versions(settings), policy_id), as_json=as_json)


def _switch_on(settings: Settings, policy: Policy, *, as_json: bool) -> None:
    from sluice.runtime.publish import publish_policy

    publish_policy(settings, policy)
    if as_json:
        print_json({**_named(policy), "mode": policy.mode})
        return
    shadow = " in shadow" if policy.mode == "shadow" else ""
    say(f"in force{shadow}: policy {policy.policy_id} version {policy.version}")
