"""Where the original traces are, on machines that have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_traces() -> Path:
    """Folder of the original traces: SLUICE_TRACES, or ../shared/traces beside the repository."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "traces"
    folder = Path(os.environ.get("SLUICE_TRACES", beside))
    if not folder.is_dir():
        pytest.skip(f"no original traces in {folder}; set SLUICE_TRACES")
    return folder
