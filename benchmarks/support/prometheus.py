"""A real Prometheus that scrapes services on this machine and evaluates rules."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ais.runtime.files import replace_file

START_SECONDS = 60


def program(name: str) -> str | None:
    """Where `prometheus` or `promtool` is: beside this Python, or in the PATH. None: nowhere."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


@dataclass(frozen=True)
class Prometheus:
    """A server."""

    url: str
    directory: Path
    """Its settings, its log, its data, and a file of addresses for each job."""

    def scrape(self, job: str, addresses: Sequence[str]) -> None:
        """Whom it scrapes for a job of its settings from now on."""
        replace_file(self.directory / f"{job}.targets.json", json.dumps([{"targets": list(addresses)}]))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector, each with `metric` (labels) and `value`; of a range, with `values`."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression})
        body = answer.json()
        assert body["status"] == "success", f"{expression}: {body.get('error')}"
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    def unhealthy_rules(self) -> list[str]:
        """Rules whose last evaluation ended with an error."""
        groups = httpx.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        ]


@contextmanager
def running(
    directory: Path, jobs: Mapping[str, Sequence[str]], token: Path, rule_files: Sequence[Path], interval: str
) -> Iterator[Prometheus]:
    """Prometheus with these rules, scraping `jobs` (addresses by name) every `interval` with the token.

    Raises RuntimeError with its log where it does not start.
    """
    settings = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "rule_files": [str(file) for file in rule_files],
        "scrape_configs": [
            {
                "job_name": job,
                "authorization": {"credentials_file": str(token)},
                "file_sd_configs": [{"files": [str(directory / f"{job}.targets.json")]}],
            }
            for job in jobs
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = Prometheus(f"http://{address}", directory)
    for job, addresses in jobs.items():
        server.scrape(job, addresses)
    command = [program("prometheus") or "prometheus", f"--config.file={file}", f"--web.listen-address={address}"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={directory / 'data'}"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(server):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((directory / "prometheus.log").read_text(encoding="utf-8"))
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()


def _ready(server: Prometheus) -> bool:
    try:
        return httpx.get(f"{server.url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False
