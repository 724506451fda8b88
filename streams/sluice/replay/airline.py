"""Ten runs of tau-bench's airline agent that travel with the package: usage, without any text.

`python -m sluice.replay.airline gpt-4o-airline.json > tau-airline.jsonl.gz` makes the file again;
where the original comes from stands in data/ATTRIBUTION.md.
"""

from __future__ import annotations

import gzip
import json
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from sluice.replay.events import Schedule, blank_event, usage_event
from sluice.replay.rows import TraceRequest
from sluice.replay.traces import Trace, read_trace

RUNS_PER_OUTCOME = 5
# Without these a line is no UsageEvent; what else equals its default is left out.
_REQUIRED = ("event_type", "operation_name", "outcome", "started_at", "occurred_at")


def packaged_tasks() -> Trace:
    """The model and tool calls of ten agent tasks."""
    with as_file(files("sluice.replay") / "data" / "tau-airline.jsonl.gz") as path:
        return read_trace(path, "usage-jsonl")


def packed(original: Path) -> bytes:
    """The first good and failed runs as UsageEvents of counts, names and hashes, in gzip."""
    requests = read_trace(original, "tau-bench").requests
    tasks = {task for outcome in ("good", "failed") for task in _ended(requests, outcome)}
    rows = [_row(number, request) for number, request in enumerate(requests)
            if request.task in tasks]  # fmt: skip
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def _ended(requests: list[TraceRequest], outcome: str) -> list[str]:
    """The tasks that were the first to begin of those that ended so."""
    so = {request.task for request in requests
          if (request.event or {}).get("slo_outcome") == outcome}  # fmt: skip
    begun = dict.fromkeys(request.task for request in requests if request.task in so)
    return [task for task in begun if task][:RUNS_PER_OUTCOME]


def _row(number: int, request: TraceRequest) -> dict[str, Any]:
    own = {"event_id": str(number), "project_id": "airline", "task_id": request.task,
           "parent_event_id": None if request.parent is None else str(request.parent)}  # fmt: skip
    event = usage_event(Schedule("", 0, 1.0), number, request) | own
    default = blank_event()
    return {name: value for name, value in event.items()
            if name in _REQUIRED or value != default.get(name)}  # fmt: skip


if __name__ == "__main__":
    sys.stdout.buffer.write(packed(Path(sys.argv[1])))
