"""`sluice emit`: lines of every format become events, faulty ones are named and left out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from tests.payloads import payloads
from typer.testing import CliRunner

from sluice.cli.app import app
from sluice.errors import ConfigError
from sluice.metering.adapters import FORMATS, hashed
from sluice.runtime import emitting
from sluice.settings import Settings
from sluice.wire.emitter_stats import EmitterStats

NOW = time.time_ns() // 1000
CONTEXT = {"tenant_id": "acme", "project_id": "chat", "started_at": NOW - 5, "occurred_at": NOW}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHAT = {"context": CONTEXT, "response": {"model": "m", "usage": USAGE}}


class Emitter:
    """Stands in for the emitter and keeps what it was given."""

    taken: list[dict[str, Any]]

    def __init__(self, *_: Any) -> None:
        Emitter.taken = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        pass

    def emit(self, event: dict[str, Any]) -> None:
        self.taken.append(event)

    def flush(self, timeout_s: float) -> int:
        return 0

    def stats(self) -> EmitterStats:
        return EmitterStats(**dict.fromkeys(EmitterStats.__dataclass_fields__, 0))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a stack whose broker and emitter are stood in for."""
    monkeypatch.setattr(emitting, "UsageEmitter", Emitter)
    monkeypatch.setattr(emitting, "wait_for_broker", lambda *_, **__: None)
    monkeypatch.setenv("SLUICE_DIR", str(tmp_path))
    return Settings(dir=tmp_path)


def test_good_lines_are_emitted_and_bad_ones_named(settings: Settings) -> None:
    """A refused payload is told with its line, reason and numbers; the others go out."""
    wrong = {"context": CONTEXT, "response": {"model": "m", "usage": USAGE | {"total_tokens": 8}}}
    lines = [json.dumps(CHAT), json.dumps(wrong), "{", json.dumps(CHAT | {"context": {}})]
    report = emitting.emit_stream(settings, "gw", lines, emitting.adapter_of(
        "openai-chat", None, None, None
    ))  # fmt: skip
    assert report["emitted"] == 1
    assert [fault.partition(": ")[0] for fault in report["faults"]] == [
        "line 2",
        "line 3",
        "line 4",
    ]
    assert report["faults"][0] == (
        "line 2: sum_mismatch: total_tokens 8 is not prompt_tokens 5 + completion_tokens 2"
    )
    (event,) = Emitter.taken
    assert (event["tenant_id"], event["input_tokens"], event["latency_us"]) == ("acme", 5, 5)


def test_an_adapted_event_is_checked_like_any_other(settings: Settings) -> None:
    """The rules of the meter hold for adapted events too: here, the order of times."""
    late = CHAT | {"context": CONTEXT | {"first_token_at": NOW + 1}}
    adapt = emitting.adapter_of("openai-chat", None, None, None)
    report = emitting.emit_stream(settings, "gw", [json.dumps(late)], adapt)
    assert report["emitted"] == 0
    assert "time_order" in report["faults"][0]


def test_usage_lines_pass_as_they_are(settings: Settings) -> None:
    """The usual format needs no adapter, and has no attributes to look in."""
    assert emitting.adapter_of("usage", None, None, "salt") is None
    with pytest.raises(ConfigError, match="themselves"):
        emitting.adapter_of("usage", "org", None, None)


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_takes_every_format(format: str, settings: Settings) -> None:
    """Each golden payload of a format is emitted by the command, or refused for its age alone."""
    golden = [payload for payload in payloads("event") if payload.format == format]
    lines = "\n".join(json.dumps(payload.line) for payload in golden)
    done = CliRunner().invoke(app, ["emit", "--format", format, "--json"], input=lines)
    report = json.loads(done.stdout)
    assert report["emitted"] + len(report["faults"]) == len(golden)
    assert all("absurd_time" in fault for fault in report["faults"])


def test_the_command_passes_attributes_and_salt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tenant and project come from the attributes named, people are hashed under the salt."""
    span = {
        "start_time_unix_nano": (NOW - 5) * 1000, "end_time_unix_nano": NOW * 1000,
        "attributes": {
            "org": "acme", "team": "blue", "user.id": "jane", "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "openai", "gen_ai.request.model": "e",
            "gen_ai.usage.input_tokens": 3,
        },
    }  # fmt: skip
    monkeypatch.setenv("SLUICE_HASH_SALT", "pepper")
    arguments = ["emit", "--format", "otel", "--tenant-attribute", "org"]
    arguments += ["--project-attribute", "team"]
    done = CliRunner().invoke(app, arguments, input=json.dumps(span))
    assert done.exit_code == 0
    (event,) = Emitter.taken
    assert (event["tenant_id"], event["project_id"]) == ("acme", "blue")
    assert event["end_user_hash"] == hashed("jane", b"pepper")
