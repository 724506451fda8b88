"""Fixtures of the admission tests."""

from __future__ import annotations

import pytest
from tests.unit.admission.metering import Bench


@pytest.fixture
def bench() -> Bench:
    """A bench without decisions."""
    return Bench()
