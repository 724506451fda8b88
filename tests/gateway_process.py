"""A gateway as a process of its own, to be run in a crowd or killed.

`python -m tests.gateway_process crowd|stream BOOTSTRAP PREFIX SOURCE WAL PROJECT TENANTS`; it says
when it is ready and goes on when a line comes in. Its requests are of so many tenants in turn.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sluice.admission.point import AdmissionPoint
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import Refused
from sluice.settings import Settings
from tests.gateways import chat, gateway, standing, tenant

THREADS = 16
# What the killed gateway did: requests committed before and after the word came, their tokens,
# and what its open stream reserved and had sent.
BEFORE, AFTER, EACH, OPEN, STREAMED = 2, 3, 7, 40, 23


class GatewayProcess:
    """One gateway process and its words."""

    def __init__(
        self, what: str, settings: Settings, source: str, wal: Path, project: str, tenants: int = 1
    ) -> None:
        argv = [sys.executable, "-m", "tests.gateway_process", what, settings.bootstrap,
                settings.topic_prefix, source, str(wal), project, str(tenants)]  # fmt: skip
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)

    def hear(self) -> Any:
        """The next thing that it says."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Kill -9, unless it has ended."""
        self.process.kill()
        self.process.communicate()


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


def _crowd(point: AdmissionPoint, project: str, tenants: int) -> None:
    """As many threads as there are ask at once for the same 100 tokens."""
    barrier = threading.Barrier(THREADS + 1)
    admitted: list[Reservation] = []

    def ask(number: int) -> None:
        barrier.wait()
        with contextlib.suppress(Refused):
            admitted.append(point.reserve(chat(project, 100, tenant(number, tenants))))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    _say("ready")
    sys.stdin.readline()
    barrier.wait()
    for thread in threads:
        thread.join()
    _say(len(admitted))
    sys.stdin.readline()
    for reservation in admitted:
        reservation.commit(output_tokens=100)


def _stream(point: AdmissionPoint, project: str, tenants: int) -> None:
    """Commits some, waits for a word, commits more, and is then in the middle of a stream."""
    for number in range(BEFORE):
        point.reserve(chat(project, EACH, tenant(number, tenants))).commit(output_tokens=EACH)
    running = point.reserve(chat(project, OPEN, tenant(BEFORE, tenants)))
    while (standing(point, project).left or 0) < AFTER * EACH:
        time.sleep(0.01)  # until a report of what it burns is answered
    _say("leased")
    sys.stdin.readline()
    for number in range(AFTER):
        point.reserve(chat(project, EACH, tenant(number, tenants))).commit(output_tokens=EACH)
    for tokens in range(1, STREAMED + 1):
        running.progress(output_tokens=tokens)
    lease = standing(point, project)
    _say({"granted": lease.granted, "committed": lease.committed})
    time.sleep(600)


def main() -> None:
    """Run one gateway."""
    what, bootstrap, prefix, source, wal, project, tenants = sys.argv[1:]
    settings = Settings(kafka_bootstrap=bootstrap, topic_prefix=prefix)
    with gateway(settings, source, Path(wal), slot=source) as (point, _):
        {"crowd": _crowd, "stream": _stream}[what](point, project, int(tenants))


if __name__ == "__main__":
    main()
