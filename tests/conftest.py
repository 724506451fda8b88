"""What holds for all tests."""

from hypothesis import settings

# A busy machine is no defect: nothing is timed here.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")
