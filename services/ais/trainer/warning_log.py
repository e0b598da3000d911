"""Warnings that a person must see: in the log, whose warnings the launcher shows, in the metrics, and as lines of
`warnings.jsonl` in the run's directory.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ais.trainer.metrics import TrainerMetrics

WARNINGS_FILE = "warnings.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Warned:
    """One warning."""

    kind: str
    """What it is about, in a word or two with underscores; the label of its metric."""
    message: str
    """What was seen, the likely cause, and what to do. The launcher shows the first 300 characters."""


class WarningLog:
    """Tells warnings. Whoever gives them sees to it that the same one does not come at every step."""

    def __init__(self, directory: Path, metrics: TrainerMetrics) -> None:
        self._file = directory / WARNINGS_FILE
        self._metrics = metrics

    def tell(self, warned: Warned, version: int) -> None:
        """`version`: the policy when it was noticed."""
        logger.warning("%s", warned.message, extra={"version": version})
        self._metrics.progress.warnings.labels(kind=warned.kind).inc()
        line = {"time": time.time(), "version": version, **asdict(warned)}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
