"""Settings that all tests share; its place also lets tests import `reference`, `problems` and `agreement`."""

from hypothesis import settings

settings.register_profile("same_every_time", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("same_every_time")
