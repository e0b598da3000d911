"""A healthy run beside a Prometheus, and what that saw."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import yaml

from ais.launcher.directory.record import read_record
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.steps import read_records
from ais.launcher.listening import METRICS
from ais.runtime.security.keyring import TOKENS
from benchmarks.support.prometheus import Prometheus, running

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
JOBS = ("trainer", "collector", "rollout")
TOLD = re.compile(rf"(\S+): {METRICS}(\S+)")
LONGEST_SECONDS = 3600.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.5
TOLD_OF_ALERTS = "ALERTS|up|ais_run_state|ais_collector_ready_replicas"
"""Series that are printed where an alert was pending or firing."""
NAME = "healthy"

State = Literal["pending", "firing"]


@dataclass(frozen=True)
class Healthy:
    """A command that makes a run which is in order."""

    arguments: tuple[str, ...]
    steps: int
    watched: str = NAME
    """The run that is watched; those that the command makes after it are not."""


@dataclass(frozen=True)
class Watched:
    """What was seen of one."""

    name: str
    steps: int
    """Trained."""
    seconds: float
    evaluations: int
    """How often the alert rules were evaluated."""
    alerts: Mapping[State, Mapping[str, float]]
    """Seconds of each alert that was ever in that state, about."""

    def seconds_by(self, state: State) -> Mapping[str, float]:
        return self.alerts.get(state, {})


RUNS: Mapping[str, Healthy] = {
    "demo": Healthy(("run", "-c", "examples/sort16/config.toml"), 150),
    "calm": Healthy(("chaos", "-c", "examples/sort16/config.toml", "--kills", "1"), 40, f"{NAME}-calm"),
    "long": Healthy(("run", "-c", "examples/sort_swaps/config.toml"), 20),
}


def watched(name: str, run: Healthy, steps: int, after: float, directory: Path) -> Watched:
    """Has it run in `directory`, and watches it until `after` seconds after its end.

    Raises RuntimeError, with what the run said, where it is not healthy: it fails, hangs, or a service is never seen.
    """
    made = RunDirectory(directory / run.watched)
    rules = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in RULES]
    (interval,) = {group["interval"] for content in rules for group in content["groups"]}
    scrapes = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["global"]["scrape_interval"]
    with _started(run, steps, directory) as (process, output):
        tokens = made.path / TOKENS
        _until(lambda: any(tokens.rglob("metrics.token")), process, output)
        token = next(tokens.rglob("metrics.token"))
        with running(directory, dict.fromkeys(JOBS, ()), token, RULES, scrapes) as prometheus:
            begun = time.monotonic()
            _until(lambda: _followed(prometheus, output) and _has_ended(made), process, output)
            time.sleep(after)
            seconds = time.monotonic() - begun
            found = _seen(prometheus, _seconds(interval))
            unseen = set(JOBS) - {one["metric"]["job"] for one in prometheus.query("max_over_time(up[2h]) == 1")}
            if unseen or prometheus.unhealthy_rules():
                broken = f"not scraped: {unseen}; broken rules: {prometheus.unhealthy_rules()}"
                raise RuntimeError(f"{broken}\n{output.read_text(encoding='utf-8')}")
        if (record := read_record(made.record)) is None or record.status != "finished":
            raise RuntimeError(output.read_text(encoding="utf-8"))
    return Watched(name, len(read_records(made.steps)), seconds, int(seconds / _seconds(interval)), found)


def _followed(prometheus: Prometheus, output: Path) -> bool:
    """Has it scrape every service that has said where its metrics are."""
    told = dict(TOLD.findall(output.read_text(encoding="utf-8")))
    for job in JOBS:
        prometheus.scrape(job, [urlsplit(url).netloc for name, url in told.items() if name.startswith(job)])
    return True


def _has_ended(run: RunDirectory) -> bool:
    record = read_record(run.record)
    return record is not None and record.status != "running"


def _seen(prometheus: Prometheus, interval: float) -> dict[State, dict[str, float]]:
    """Seconds of each alert in each state: rules are evaluated once in `interval` seconds."""
    found: defaultdict[State, dict[str, float]] = defaultdict(dict)
    for one in prometheus.query("max by (alertname, alertstate) (count_over_time(ALERTS[2h]))"):
        found[one["metric"]["alertstate"]][one["metric"]["alertname"]] = interval * float(one["value"][1])
    if found:
        _tell(prometheus)
    return found


def _tell(prometheus: Prometheus) -> None:
    """Prints what a person needs to see why an alert was told."""
    now = time.time()
    for one in prometheus.query(f'{{__name__=~"{TOLD_OF_ALERTS}"}}[2h]'):
        first, (last, value) = one["values"][0][0], one["values"][-1]
        print(f"{one['metric']}: {now - first:.0f} to {now - last:.0f} s ago, {value} at last")


def _seconds(text: str) -> float:
    """A time in seconds as Prometheus writes it, such as 15s."""
    return float(text.removesuffix("s"))


@contextmanager
def _started(run: Healthy, steps: int, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command and the file of what it says; it is stopped in the end, in good order."""
    settings = {"run.directory": directory, "run.name": NAME, "run.steps": steps, "launcher.evaluation_prompts": 64}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "ais.cli", *run.arguments, *overrides]
    output = directory / "output"
    with output.open("wb") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"COLUMNS": "160"}, stdout=said, stderr=subprocess.STDOUT
        )
    try:
        yield process, output
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition: Callable[[], object], process: subprocess.Popen[bytes], output: Path) -> None:
    """Returns when the condition is true. Raises RuntimeError when the command ends before that, or takes too long."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if (process.poll() is not None and not condition()) or time.monotonic() > deadline:
            raise RuntimeError(output.read_text(encoding="utf-8"))
        time.sleep(POLL_SECONDS)
