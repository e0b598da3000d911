"""A real Prometheus for tests, and its promtool."""

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
import yaml

ROOT = Path(__file__).resolve().parents[3]
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
START_SECONDS = 60


def program(name: str) -> str | None:
    """Where `prometheus` or `promtool` is: beside this Python, or in the PATH. None: nowhere."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says of `arguments`, and of `text` as its input."""
    return subprocess.run(
        [program("promtool") or "promtool", *arguments], input=text, capture_output=True, text=True, check=False
    )


def rules() -> list[dict[str, Any]]:
    """Every recording and alerting rule."""
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes and evaluates the project's rules."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector, each with `metric` (labels) and `value`."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression})
        body = answer.json()
        assert body["status"] == "success", f"{expression}: {body.get('error')}"
        assert body["data"]["resultType"] in ("vector", "scalar"), expression
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
    directory: Path,
    jobs: Mapping[str, Sequence[str]],
    token: Path,
    rule_files: Sequence[Path] = (),
    interval: str = "1s",
) -> Iterator[Prometheus]:
    """Prometheus with the project's rules, scraping `jobs` (addresses by name) every `interval` with the token.

    `rule_files`: other rules than the project's, evaluated once a second.
    """
    settings = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "rule_files": [str(file) for file in rule_files or _quick_rules(directory)],
        "scrape_configs": [
            {
                "job_name": job,
                "authorization": {"credentials_file": str(token)},
                "static_configs": [{"targets": list(addresses)}],
            }
            for job, addresses in jobs.items()
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program("prometheus") or "prometheus", f"--config.file={file}", f"--web.listen-address={address}"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={directory / 'data'}"], stdout=log, stderr=log)
    server = Prometheus(f"http://{address}")
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(server):
            assert process.poll() is None, (directory / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (directory / "prometheus.log").read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()


def _quick_rules(directory: Path) -> Iterator[Path]:
    """The rules, evaluated once a second: a test has no quarter of a minute."""
    for file in RULES:
        content = yaml.safe_load(file.read_text())
        for group in content["groups"]:
            group["interval"] = "1s"
        copy = directory / file.name
        copy.write_text(json.dumps(content))
        yield copy


def _ready(server: Prometheus) -> bool:
    try:
        return httpx.get(f"{server.url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False
