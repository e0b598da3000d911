"""Measures the mismatch of a batch: sums that add over its parts, and the figures that follow from them.

`measuring` fills the sums, `sums` lays them out, `histogram` and `tail` hold the statistics that need a distribution,
and `summary` turns the sums into `Diagnostics`.
"""

from ais_core.diagnostics.summary import (
    Diagnostics,
    LagDiagnostics,
    Moments,
    describe,
    ladder_at,
    ladder_rows,
    summarize,
)

__all__ = ["Diagnostics", "LagDiagnostics", "Moments", "describe", "ladder_at", "ladder_rows", "summarize"]
