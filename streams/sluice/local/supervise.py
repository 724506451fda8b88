"""Entry point of the supervisor process: `python -m sluice.local.supervise --dir DIR`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from sluice.errors import SluiceError
from sluice.local.specs import supervise
from sluice.settings import load_settings


def _log(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


def main() -> int:
    """Supervise the stack in --dir; 1 and one sentence on standard error when it cannot start."""
    parser = argparse.ArgumentParser(prog="sluice.local.supervise")
    parser.add_argument("--dir", type=Path, required=True)
    folder = parser.parse_args().dir
    try:
        supervise(load_settings(folder, running=False), folder, _log)
    except SluiceError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
