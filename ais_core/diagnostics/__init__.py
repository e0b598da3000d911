"""Measures the mismatch of a batch: sums that add over its parts, and the figures that follow from them.

`measuring` fills the sums and `sums` lays them out. `histogram`, `moments`, `tail` and `ladder` read statistics from
them, and `summary` turns them into `Diagnostics`.
"""

from ais_core.diagnostics.moments import Moments
from ais_core.diagnostics.summary import Diagnostics, LagDiagnostics, describe, summarize

__all__ = ["Diagnostics", "LagDiagnostics", "Moments", "describe", "summarize"]
