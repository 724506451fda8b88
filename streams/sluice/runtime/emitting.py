"""JSON lines made into usage events, validated and published: what `sluice emit` does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from sluice.errors import ConfigError, OutsideError
from sluice.metering.adapters.lines import line_adapter
from sluice.metering.validate import check_usage
from sluice.settings import Settings
from sluice.wire.emitter import UsageEmitter
from sluice.wire.emitter_lines import Adapt, LineFault, emit_lines
from sluice.wire.kafka import producer_config, topics, wait_for_broker

USAGE_FORMAT = "usage"

_FLUSH_S = 30.0


def emit_stream(settings: Settings, source: str, lines: Iterable[str],
                adapt: Adapt | None = None) -> dict[str, Any]:  # fmt: skip
    """Publish every good line; `faults` names the others with their line numbers.

    Lines hold usage events, or what `adapt` makes one of.
    Raises OutsideError where the broker is away; what was accepted stays in the source's log and
    is sent by the next run.
    """
    wait_for_broker(settings, timeout_s=10)
    faults: list[LineFault] = []
    emitter = UsageEmitter(
        producer_config(settings), topics(settings).usage, source, settings.dir / "wal"
    )
    with emitter:
        counts = emit_lines(emitter, lines, _check, faults.append, adapt)
        left = emitter.flush(_FLUSH_S)
    if left:
        raise OutsideError(
            f"{left} of {counts.emitted} events are not acknowledged yet; they stay in the log of "
            f"{source} and are sent by the next run"
        )
    return {
        "emitted": counts.emitted,
        "recovered": emitter.stats().recovered,
        "faults": [f"line {f.line}: {f.reason}: {f.detail}" for f in faults],
    }


def adapter_of(format: str, tenant_attribute: str | None, project_attribute: str | None,
               salt: str | None) -> Adapt | None:  # fmt: skip
    """What makes events of lines in a format; None where they are usage events already.

    Raises ConfigError for an unknown format or attributes that it does not have.
    """
    if format != USAGE_FORMAT:
        return line_adapter(format, tenant_attribute=tenant_attribute,
                            project_attribute=project_attribute,
                            salt=(salt or "").encode())  # fmt: skip
    if tenant_attribute or project_attribute:
        raise ConfigError("usage events carry their tenant_id and project_id themselves")
    return None


def _check(event: Mapping[str, Any]) -> None:
    check_usage(event, str(event["tenant_id"]).encode(), time.time_ns() // 1000)
