"""Which prompt takes the place of one whose group taught nothing: a pure function of its ordinal and the redraw.

The reserve is the same endless order of prompts as the run's own, from a position that no ordinal reaches. Each ordinal
has its own stretch of it, so whoever draws again after a crash draws the same.
"""

from __future__ import annotations

from ais.collector.settings import MOST_REDRAWS
from ais.contracts.limits import HIGHEST_VERSION

RESERVE = HIGHEST_VERSION
"""Ordinals are below it."""


def position_of(ordinal: int, redraw: int) -> int:
    """Where in the order of prompts the prompt of an ordinal stands, `redraw` groups having been thrown away."""
    return ordinal if redraw == 0 else RESERVE + ordinal * MOST_REDRAWS + redraw - 1
