"""Helpers of other folders that these tests stand on."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2]
sys.path += [str(_TESTS / "integration" / "collector"), str(_TESTS / "integration" / "trainer")]
sys.path += [str(_TESTS / "unit" / "trainer")]
