"""What runs beside a gateway's own work."""

from __future__ import annotations

import gc

from sluice.admission.background import uncollected


def test_the_collector_rests_and_is_left_as_it_was() -> None:
    """Inside it is off; afterwards on again, unless the gateway itself had it off."""
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
