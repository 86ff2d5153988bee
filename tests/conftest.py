"""Settings of the unit and property tests."""

from hypothesis import settings

settings.register_profile("srnlib", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("srnlib")
