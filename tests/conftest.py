"""What holds for all tests."""

from hypothesis import settings

# A shared or busy machine must not turn a slow example into a failure: nothing here is timed.
settings.register_profile("tidegate", deadline=None)
settings.load_profile("tidegate")
