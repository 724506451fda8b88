"""The peer: a Faust agent with a table, as its documentation teaches it, at its defaults.

It does a part of the meter's work: decode, one windowed sum per key, a changelog. Run as a process
of its own: `python -m sluice.bench.stock_faust BOOTSTRAP TOPIC EVENTS`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from typing import Any

import faust

from sluice.wire.codec import decode

_WINDOW_US = 60_000_000
_SUMS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "reasoning_output_tokens")


def main() -> None:
    """Print what the table holds after `EVENTS` events, and CPU and wall seconds from the first."""
    bootstrap, topic, count = sys.argv[1:]
    asyncio.set_event_loop(asyncio.new_event_loop())
    app = build(bootstrap, topic, int(count))
    worker = faust.Worker(app, loglevel="ERROR", redirect_stdouts=False)
    worker.execute_from_commandline()


def build(bootstrap: str, topic: str, count: int) -> faust.App:
    """The application; it ends the process when it has seen `count` usage events."""
    app = faust.App(
        f"{topic}-peer", broker=f"kafka://{bootstrap}", store="memory://", web_enabled=False,
        datadir=tempfile.mkdtemp(dir="."), topic_partitions=4, worker_redirect_stdouts=False,
        consumer_auto_offset_reset="earliest",
    )  # fmt: skip
    source = app.topic(topic, key_type=bytes, value_type=bytes, value_serializer="raw")
    table = app.Table("sums", default=lambda: [0] * (1 + len(_SUMS)))
    seen, begun, begun_cpu = 0, 0.0, 0.0

    @app.agent(source)
    async def meter(values: Any) -> None:
        nonlocal seen, begun, begun_cpu
        async for value in values:
            if not begun:
                begun, begun_cpu = time.monotonic(), time.process_time()
            name, event = decode(value)
            if name != "UsageEvent":
                continue
            key = _key(event)
            sums = table[key]
            table[key] = [
                sums[0] + 1,
                *(s + event[n] for s, n in zip(sums[1:], _SUMS, strict=True)),
            ]
            seen += 1
            if seen == count:
                _finish(table, time.process_time() - begun_cpu, time.monotonic() - begun)

    return app


def _key(event: dict[str, Any]) -> str:
    parts = (event["occurred_at"] // _WINDOW_US, event["tenant_id"], event["project_id"],
             event["response_model"], event["tool_name"] or "")  # fmt: skip
    return "|".join(map(str, parts))


def _finish(table: Any, cpu_s: float, wall_s: float) -> None:
    rows = list(table.values())
    names = ("events", *_SUMS)
    totals = {name: sum(row[place] for row in rows) for place, name in enumerate(names)}
    print(json.dumps({"rows": len(rows), **totals, "cpu_s": cpu_s, "wall_s": wall_s}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
