"""The README's commands, code and queries do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.conftest import Stack

from sluice.enforcement.policy_file import load_policy
from sluice.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("sluice ")
]
GROUPS = ("budget", "policy", "prices", "export", "baseline", "bench")
_STATEMENTS = [part.strip() for block in blocks("sql") for part in block.split(";")]
QUERIES = [statement for statement in _STATEMENTS if statement]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist_with_their_options(command: str) -> None:
    """Every command line in the README is understood by the program."""
    words = [
        word
        for word in shlex.split(command.split("<", maxsplit=1)[0])[1:]
        if not word.startswith(".")
    ]
    verbs = [word for word in words[:2] if word.isalpha() and word != "trace"]
    verbs = verbs[:2] if verbs[0] in GROUPS else verbs[:1]
    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli", *verbs, "--help"],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in done.stdout


@pytest.mark.parametrize("query", QUERIES)
def test_queries_run(stack: Stack, query: str) -> None:
    """Every query in the README is answered."""
    stack.rows(query)


def test_the_gateway_example_runs(stack: Stack, tmp_path: Path) -> None:
    """The example emits one event of tenant acme into the running stack."""
    (code,) = blocks("python")
    script = tmp_path / "gateway.py"
    script.write_text(code)
    environment = os.environ | {"SLUICE_DIR": str(stack.folder)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True,
                          check=False, env=environment, cwd=tmp_path, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not list((tmp_path / ".sluice" / "wal").rglob("*.wal"))


def test_the_policy_examples_are_valid() -> None:
    """The policies shown load, the budgets of the second one span tenants."""
    first, second = (load_policy(text, "README") for text in blocks("yaml"))
    assert first.policy_id == "tenant-budget"
    assert all(budget.of_tenant for budget in first.budgets)
    assert [budget.of_tenant for budget in second.budgets] == [False] * 3


def test_files_that_it_names_exist() -> None:
    """Every path in back quotes that looks like one of ours is there."""
    named = re.findall(r"`((?:streams|schemas|sql|infra|tests)/[\w./*-]+)`", README)
    assert named
    for path in named:
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_every_setting_has_a_default_or_a_meaning() -> None:
    """The settings that the README names exist."""
    for name in set(re.findall(r"SLUICE_([A-Z_]+)", README)):
        assert name.lower() in Settings.model_fields, name
