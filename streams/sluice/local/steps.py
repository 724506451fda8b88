"""Steps that run once between the servers and the workers, each a short process of its own.

A process, and not a call inside the supervisor: the supervisor stays small, never blocks and
retries a step the way it restarts a worker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sluice.errors import OutsideError, SluiceError
from sluice.local.process import EX_CONFIG, EX_TEMPFAIL
from sluice.settings import Settings, load_settings


def _topics(settings: Settings) -> None:
    from sluice.wire.kafka import ensure_topics

    created = ensure_topics(settings)
    print(f"topics created: {', '.join(created) or 'none, all were there'}")


def _migrations(settings: Settings) -> None:
    from sluice.warehouse.migrations import migrate

    migrate(settings)
    print("the warehouse's tables are up to date")


def _prices(settings: Settings) -> None:
    from sluice.runtime.publish import ensure_price_book

    version = ensure_price_book(settings)
    print(f"price book in force: {version}" if version else "a price book was published before")


STEPS: dict[str, Callable[[Settings], None]] = {
    "topics": _topics,
    "migrations": _migrations,
    "prices": _prices,
}


def run_step(step: Callable[[], None]) -> int:
    """Exit code of one step: 0 done, 75 try again, 78 a person has to mend something first."""
    try:
        step()
    except OutsideError as error:
        print(error, file=sys.stderr)
        return EX_TEMPFAIL
    except SluiceError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    return 0


def main() -> int:
    """Run the step named on the command line."""
    parser = argparse.ArgumentParser(prog="sluice.local.steps")
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("--dir", type=Path, required=True)
    chosen = parser.parse_args()
    return run_step(lambda: STEPS[chosen.step](load_settings(chosen.dir)))


if __name__ == "__main__":
    sys.exit(main())
