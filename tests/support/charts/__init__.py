"""What Helm makes of the chart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy/kubernetes"
RUN = ROOT / "examples/qwen3-8b/config.toml"
"""A settings file of one's own."""
TRAINING = ("-f", str(CHART / "values-8-gpus.yaml"), "--set-file", f"run.settings={RUN}")
"""The set for eight GPUs, until the evaluation is enabled."""
DEMO = ("-f", str(CHART / "values-cpu-demo.yaml"))
SETS = {
    "cpu-demo": DEMO,
    "8-gpus": (*TRAINING, "--set", "evaluation.enabled=true"),
    "agents": (*DEMO, "--set", "run.example=agents", "--set", "agent.enabled=true"),
}
"""The two value sets, as docs/kubernetes.md uses them, and the first with agents."""
MONITORED = (*SETS["cpu-demo"], "--set", "monitoring.enabled=true")

Object = dict[str, Any]


@cache
def helm() -> str | None:
    """Where Helm 4 is that runs here: beside this Python, or in the PATH. None: nowhere."""
    places = (str(Path(sys.executable).with_name("helm")), shutil.which("helm"))
    return next((place for place in places if place and _is_helm(place)), None)


def _is_helm(program: str) -> bool:
    try:
        done = subprocess.run([program, "version", "--short"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.startswith("v4")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm() or "helm", *arguments], capture_output=True, text=True, check=False)


@cache
def rendered(values: Sequence[str], version: str = "1.35", chart: Path = CHART) -> tuple[Object, ...]:
    """The objects of a release named `run`, for a version of Kubernetes. Fails with Helm's words."""
    done = call("template", "run", str(chart), "--namespace", "lab", "--kube-version", f"{version}.0", *values)
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.safe_load_all(done.stdout) if one)


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """By their names, without the release's."""
    return {one["metadata"]["name"].removeprefix("run-"): one for one in objects if one["kind"] == kind}


def pods(objects: Sequence[Object]) -> dict[str, Object]:
    """Pod templates by component."""
    templates = [one["spec"]["template"] for one in objects if one["kind"] in ("Deployment", "StatefulSet", "Job")]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in templates}


def containers(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Every container, those that run before the service too, with its pod's component."""
    for component, pod in pods(objects).items():
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            yield component, container


def environment(container: Object) -> dict[str, str]:
    """Its variables; one that only the cluster knows is an address."""
    return {one["name"]: one.get("value", "10.0.0.1") for one in container.get("env", ())}
