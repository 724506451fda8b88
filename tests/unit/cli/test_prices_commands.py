"""Commands about price books."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from sluice.cli.app import app


def _run(*words: str) -> str:
    result = CliRunner().invoke(app, ["prices", *words], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_every_class_is_shown_with_its_unit(tmp_path: Path) -> None:
    """Tokens per million, pixels per million, durations per second, KV cache per GB-hour."""
    rates = {"input": 2_500_000, "pixels": 83_923_300_000, "seconds_milli": 100_000_000,
             "gpu_us": 700_000_000, "kv_byte_ms": 20_000_000_000}  # fmt: skip
    book = {"book_id": "b", "source": "s", "licence": "l",
            "entries": [{"model": "m", "tiers": [{"rates_pusd": rates}]}]}  # fmt: skip
    file = tmp_path / "book.json"
    file.write_text(json.dumps(book))
    lines = [" ".join(line.replace("│", " ").split())
             for line in _run("show", "m", "--book", str(file)).splitlines()]  # fmt: skip
    for row in ("input 2.5000 million tokens tokens", "pixels 0.0839 million pixels pixels",
                "seconds_milli 0.0001 second ms", "gpu_us 0.0007 GPU-second µs",
                "kv_byte_ms 0.0200 GB-hour byte-ms"):  # fmt: skip
        assert f"standard 0 {row}" in lines
    shown = json.loads(_run("show", "m", "--book", str(file), "--json"))
    assert shown["rates_pusd"] == rates
    assert shown["units"]["gpu_us"] == {
        "unit": "µs", "per": 1_000_000, "shown": "GPU-second", "shown_for": 1_000_000,
    }  # fmt: skip


def test_an_import_lists_what_it_leaves_out(tmp_path: Path) -> None:
    """Skipped entries and fields, each with the reason."""
    listed = {"m": {"input_cost_per_token": 1e-6, "citation_cost_per_token": 1e-6}, "n": {}}
    (tmp_path / "prices.json").write_text(json.dumps(listed))
    said = json.loads(_run("import", str(tmp_path / "prices.json"), "--out",
                           str(tmp_path / "book.json"), "--json"))  # fmt: skip
    assert (said["loaded"], said["skipped"]) == (1, [["n", "no price"]])
    assert said["not_represented"] == [["m", "citation_cost_per_token", "no class has this unit"]]
    assert "1 entries" in _run("import", str(tmp_path / "prices.json"), "--out",
                               str(tmp_path / "book.json"))  # fmt: skip
