"""Whole runs, as a user starts them: `ais run` with real replicas, collector, trainer and Valkey; what they leave."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from ais.runtime.security.keyring import TOKENS
from ais.runtime.security.roles import Role
from tests.support.access import bearer
from tests.support.runs.lines import whole_lines

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
POLICY = EXAMPLES / "sort16" / "model"
"""The demo's policy: it solves some of the problems, so that rewards differ."""
MARK = "AIS_TEST_MARK"
"""Environment variable by which every process of a run is found, whatever became of its parents."""
SMALL: Mapping[str, object] = {
    "run.name": "small",
    "run.steps": 3,
    "run.groups_per_batch": 4,
    "run.samples_per_group": 8,
    "rollout.replicas": 1,
    "launcher.evaluation_prompts": 0,
    "trainer.samples_per_step": 32,
}
"""Settings of a short run that keeps every response."""
SECONDS = 560
"""A run that takes longer hangs."""

Figures = dict[str, float]
"""Values of a service's metrics, by name and labels as Prometheus writes them."""


@dataclass(frozen=True)
class Run:
    """A run under way, and its directory."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.directory.with_suffix(".output").read_text("utf-8")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of one of its files: steps, samples, ledger."""
        return whole_lines(self.directory / f"{name}.jsonl")

    def service(self, module: str) -> psutil.Process | None:
        """A process of it that runs `python -m` this module; None while there is none."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if module in process.cmdline():
                        return process
        return None

    def figures(self, service: str) -> Figures:
        """What a service measures now; nothing before it listens and after it has ended."""
        found = re.findall(rf"{service}: metrics at (\S+)", self.output)
        with suppress(httpx.HTTPError):
            answer = httpx.get(found[-1], headers=bearer(Role.METRICS, self.directory / TOKENS)) if found else None
            # A service that has ended may have left its port to one of another run, which asks for another token.
            text = answer.text if answer is not None and answer.is_success else ""
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
            return {_key(sample.name, sample.labels): sample.value for sample in samples}
        return {}

    def until(self, condition: Callable[[], object]) -> None:
        """Returns when the condition is true; fails when the run ends before that."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"waited too long\n{self.output}"
            time.sleep(0.02)

    def ended_well(self, *services: str) -> dict[str, Figures]:
        """Waits for its end, which must be a good one. The last figures that `services` gave."""
        last: defaultdict[str, Figures] = defaultdict(dict)
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"waited too long\n{self.output}"
            for service in services:
                last[service] = self.figures(service) or last[service]
            time.sleep(0.05)
        assert self.process.returncode == 0, self.output
        return last


def _key(name: str, labels: Mapping[str, str]) -> str:
    return name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")


@contextmanager
def started(config: Path, parent: Path, settings: Mapping[str, object] | None = None) -> Iterator[Run]:
    """`ais run` of a settings file, small unless `settings` say more. What is left of it at the end is killed."""
    chosen = {**SMALL, "run.directory": parent, **(settings or {})}
    overrides = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    with launched(parent / str(chosen["run.name"]), "run", "-c", str(config), *overrides) as run:
        yield run


@contextmanager
def launched(directory: Path, *arguments: str) -> Iterator[Run]:
    """`ais` with these arguments, about the run in `directory`."""
    with directory.with_suffix(".output").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ais.cli", *arguments],
            env=os.environ | {MARK: str(directory.parent), "COLUMNS": "160"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Run(directory, process)
    finally:
        for left in left_of(directory.parent):
            with suppress(psutil.Error):
                left.kill()
        process.wait()


def left_of(parent: Path) -> list[psutil.Process]:
    """Processes of the runs below a directory that still run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(parent) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
