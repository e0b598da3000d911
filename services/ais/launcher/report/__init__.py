"""A run's report."""

from ais.launcher.report.page import write_report

__all__ = ["write_report"]
