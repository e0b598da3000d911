"""The number formats of rollouts, by name."""

from ais.comparison.settings import FORMATS as PRECISIONS

__all__ = ["PRECISIONS"]
