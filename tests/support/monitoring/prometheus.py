"""A real Prometheus for tests, and its promtool."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.support import prometheus
from benchmarks.support.prometheus import Prometheus as Prometheus
from benchmarks.support.prometheus import program as program

ROOT = Path(__file__).resolve().parents[3]
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says of `arguments`, and of `text` as its input."""
    return subprocess.run(
        [program("promtool") or "promtool", *arguments], input=text, capture_output=True, text=True, check=False
    )


def rules() -> list[dict[str, Any]]:
    """Every recording and alerting rule."""
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@contextmanager
def running(
    directory: Path,
    jobs: Mapping[str, Sequence[str]],
    token: Path,
    rule_files: Sequence[Path] = (),
    interval: str = "1s",
) -> Iterator[Prometheus]:
    """Prometheus with the project's rules, scraping `jobs` (addresses by name) every `interval` with the token.

    `rule_files`: other rules than the project's, evaluated once a second.
    """
    rule_files = rule_files or list(_quick_rules(directory))
    with prometheus.running(directory, jobs, token, rule_files, interval) as server:
        yield server


def _quick_rules(directory: Path) -> Iterator[Path]:
    """The rules, evaluated once a second: a test has no quarter of a minute."""
    for file in RULES:
        content = yaml.safe_load(file.read_text())
        for group in content["groups"]:
            group["interval"] = "1s"
        copy = directory / file.name
        copy.write_text(json.dumps(content))
        yield copy
