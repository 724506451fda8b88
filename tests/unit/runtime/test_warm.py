"""What the meter compiles before it takes partitions is all that it will ever call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_LOOK = """
import gc
from numba.core.dispatcher import Dispatcher
from sluice.runtime.apps import meter
meter.warm_up()
loops = [o for o in gc.get_objects() if isinstance(o, Dispatcher)
         and o.py_func.__module__.startswith("sluice.")]
print(len(loops), *sorted(f"{o.py_func.__module__}.{o.py_func.__name__}"
                          for o in loops if not o.signatures))
"""


def test_warming_up_compiles_every_loop(tmp_path: Path) -> None:
    """Without anything kept on disk no loop is left to be compiled while records wait."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    found, *cold = done.stdout.split()
    assert int(found) > 50
    assert cold == []
