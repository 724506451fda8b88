"""A long run of random faults: `SOAK_SECONDS`, `SOAK_FAULTS` and `SOAK_SEED` say how long.

The seed decides usage and faults, so a run can be repeated; how the processes interleave it cannot
decide. The folder with all logs stays where a difference is found.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.faults.chaos import Chaos
from tests.faults.feeder import Feeder
from tests.faults.pipeline import Pipeline
from tests.faults.truth import compare

_PER_SECOND = 40.0


def main() -> int:
    """Exit code 0 when nothing differs from the truth."""
    seconds = float(os.environ.get("SOAK_SECONDS", "1260"))
    least = int(os.environ.get("SOAK_FAULTS", "50"))
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    folder = Path(tempfile.mkdtemp(prefix="sluice-soak-"))
    _say(f"seed {seed}: {seconds:.0f} s and at least {least} faults; logs in {folder}")
    pipeline = Pipeline(folder, chunk_records=500)
    try:
        _soak(pipeline, random.Random(seed), seed, seconds, least)
    except Exception:
        traceback.print_exc()
        _say(f"FAILED; again with SOAK_SEED={seed} make soak; logs in {folder}")
        return 1
    finally:
        pipeline.stop()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _soak(pipeline: Pipeline, rng: random.Random, seed: int, seconds: float, least: int) -> None:
    pipeline.start(workers=2)
    feeder = Feeder(pipeline.settings, seed, _PER_SECOND)
    chaos = Chaos(pipeline, feeder, rng)
    feeder.start()
    begun, done = time.monotonic(), Counter[str]()
    while time.monotonic() - begun < seconds or done.total() < least:
        time.sleep(rng.uniform(0.5, 2 * max(1.0, seconds / (3 * max(1, least)))))
        # Round robin through a shuffled list, so that each kind comes as often as any other.
        name = min(rng.sample(sorted(chaos.faults), len(chaos.faults)), key=lambda n: done[n])
        _say(f"{time.monotonic() - begun:6.0f} s  {name}")
        chaos.faults[name]()
        done[name] += 1
    lasted = time.monotonic() - begun
    _say(f"{done.total()} faults in {lasted:.0f} s; comparing with the truth")
    counted = compare(pipeline, feeder)
    ends = Counter(f"{name.partition('-')[0]} {code}" for name, code in pipeline.exits)
    _say(f"ends of processes: {dict(sorted(ends.items()))}")
    _say(f"faults: {dict(sorted(done.items()))}")
    _say(f"difference zero: {counted}, seed {seed}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
