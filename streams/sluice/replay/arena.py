"""The arena trace that travels with the package, and how it was made from the original.

`python -m sluice.replay.arena FCFS_real.jsonl > vtc-arena-fcfs.jsonl.gz` makes it again; where the
original comes from stands in data/ATTRIBUTION.md.
"""

from __future__ import annotations

import gzip
import json
import sys
from importlib.resources import as_file, files
from pathlib import Path

from sluice.replay.traces import Trace, read_trace

_COLUMNS = ("adapter_dir", "prompt_len", "output_len")
_TIMES = ("req_time", "first_token_latency", "request_latency")


def packaged_trace() -> Trace:
    """The 1,500 requests of 27 tenants that the demo replays."""
    with as_file(files("sluice.replay") / "data" / "vtc-arena-fcfs.jsonl.gz") as path:
        return read_trace(path, "vtc")


def packed(original: Path) -> bytes:
    """The columns that a replay needs, one response a line, times rounded to µs, gzip."""
    responses = json.loads(original.read_text(encoding="utf-8"))["result"]["responses"]
    rows = [
        {name: row[name] for name in _COLUMNS} | {name: round(row[name], 6) for name in _TIMES}
        for row in responses
    ]
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


if __name__ == "__main__":
    sys.stdout.buffer.write(packed(Path(sys.argv[1])))
