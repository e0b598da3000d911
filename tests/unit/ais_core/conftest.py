"""Property tests here run tensor code, whose first call can be slow: no deadline per example."""

from hypothesis import settings

settings.register_profile("ais_core", deadline=None, max_examples=8)
settings.load_profile("ais_core")
