"""The alert rules as they are, but in a time that goes many times faster: a test has no forty minutes.

Windows, offsets, `for`, the horizon of a prediction and thresholds that are times are divided by one number; nothing
else is changed. What stays: windows under five minutes, which hold no more than a few scrapes otherwise; the hour in
which restarts are counted, since a process starts no faster; and the fortnight before a certificate ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

FASTEST = 120.0
"""Forty minutes are twenty seconds."""
STEPS = 4
"""At least so many fall into ten minutes, for rules to see what a step shows."""
SHORTEST_SECONDS = 300
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SPAN = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])|(?<=offset )(\d+)([smhd])\b")
AGE = re.compile(r"(ais_\w+_seconds > )(\d+)")
RESTARTS = re.compile(r"((?:changes|delta)\([^()]*\[1h\]\))")
HORIZON = re.compile(r"(predict_linear\([^,]*, )(\d+) \* 3600\)")


@dataclass(frozen=True)
class Hurry:
    """How fast time goes."""

    faster: float = FASTEST

    @classmethod
    def for_steps_of(cls, seconds: float) -> Hurry:
        """As fast as trainers allow whose steps take so long: on a machine that does much else, slower."""
        return cls(min(FASTEST, 600 / (STEPS * seconds)))

    @property
    def interval(self) -> str:
        """Between scrapes and between evaluations: two minutes."""
        return self._milliseconds(120)

    def seconds(self, minutes: float) -> float:
        """How long so many minutes take."""
        return 60 * minutes / self.faster

    def expression(self, expression: str) -> str:
        """The same expression in hurried time."""
        expression = "".join(part if RESTARTS.match(part) else self._spans(part) for part in RESTARTS.split(expression))
        expression = AGE.sub(lambda found: f"{found[1]}{int(found[2]) / self.faster:g}", expression)
        return HORIZON.sub(lambda found: f"{found[1]}{int(found[2]) * 3600 / self.faster:g})", expression)

    def rules(self, files: Iterable[Path], directory: Path) -> list[Path]:
        """Copies of the rule files in `directory`, in hurried time."""
        copies = []
        for file in files:
            content = yaml.safe_load(file.read_text("utf-8"))
            for group in content["groups"]:
                group["interval"] = self.interval
                for rule in group["rules"]:
                    rule["expr"] = self.expression(rule["expr"])
                    if wait := re.fullmatch(r"(\d+)([smhd])", rule.get("for", "")):
                        rule["for"] = self._milliseconds(int(wait[1]) * UNITS[wait[2]])
            copies.append(directory / f"hurried-{file.name}")
            copies[-1].write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        return copies

    def _spans(self, expression: str) -> str:
        return SPAN.sub(lambda found: self._span(found[1] or found[3], found[2] or found[4]), expression)

    def _span(self, number: str, unit: str) -> str:
        seconds = int(number) * UNITS[unit]
        # What has happened once is asked for a day or a month back: it is no window of a rate.
        if seconds < SHORTEST_SECONDS or seconds >= UNITS["d"]:
            return f"{number}{unit}"
        return self._milliseconds(seconds)

    def _milliseconds(self, seconds: float) -> str:
        return f"{round(1000 * seconds / self.faster)}ms"
