"""Commands that explain and steer, as far as they need no broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.builders import POLICY
from typer.testing import CliRunner

from sluice.cli.app import app
from sluice.errors import ConfigError


def test_two_files_are_compared_without_a_stack(tmp_path: Path) -> None:
    """Each value that differs has a line with its sign; equal files have none."""
    left, right = tmp_path / "a.yaml", tmp_path / "b.yaml"
    left.write_text(POLICY)
    right.write_text(
        POLICY.replace('"0.001"', '"0.002"').replace("rate_per_minute: 30", "rate_per_minute: 40")
    )
    shown = CliRunner().invoke(app, ["policy", "diff", str(left), str(right)])
    assert shown.exit_code == 0
    assert shown.output.splitlines()[2:] == [
        "- budgets[tenant-day].limit: 0.001000 USD",
        "+ budgets[tenant-day].limit: 0.002000 USD",
        "- budgets[tenant-day].rules[slow].rate_per_minute: 30",
        "+ budgets[tenant-day].rules[slow].rate_per_minute: 40",
    ]
    same = CliRunner().invoke(app, ["policy", "diff", str(left), str(left), "--json"])
    assert json.loads(same.output)["equal"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain"], "give either a decision's id or --scope"),
        (["explain", "id", "--scope", "tenant_id=a"], "give either a decision's id or --scope"),
        (["watch", "--kind", "beat"], "--kind beat is none of decision, budget, lease"),
        (["watch", "--scope", "acme"], "'acme' is no field=value"),
    ],
)
def test_wrong_words_are_told_before_anything_is_asked(words: list[str], said: str) -> None:
    """The sentence names what was wrong."""
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, ConfigError) and said in str(error)
