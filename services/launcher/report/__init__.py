"""A run's report."""

from services.launcher.report.page import write_report

__all__ = ["write_report"]
