"""A gateway on a disk that is full for a while: `python -m tests.faults.full_disk …`."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from sluice.wire.emitter import UsageEmitter
from sluice.wire.wal import SpoolFull
from tests.builders import usage

_ROOM_BYTES = 12_000


def main(bootstrap: str, topic: str, folder: Path, count: int) -> None:
    """Emit `count` events; the file system takes no byte beyond `_ROOM_BYTES` at first."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    # For a process, a limit on its files is a disk that ends there.
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM_BYTES, most))
    config = {"bootstrap.servers": bootstrap, "enable.idempotence": True,
              "partitioner": "murmur2_random"}  # fmt: skip
    refused = 0
    with UsageEmitter(config, topic, "gw-full", folder, full_timeout_ms=50) as emitter:
        for _ in range(count):
            now = time.time_ns() // 1000
            event = usage(occurred_at=now, started_at=now, tenant_id="full-disk",
                          provider_name="p", request_model="small")  # fmt: skip
            for name in ("event_id", "source", "source_epoch", "source_seq"):
                del event[name]
            try:
                emitter.emit(event)
            except SpoolFull:
                refused += 1
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
                emitter.emit(event)
        assert emitter.flush(120) == 0
    assert refused == 1, f"{refused} events found the disk full"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
