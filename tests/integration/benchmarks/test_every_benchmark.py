"""Every benchmark runs, small: what nobody runs is broken within a week. What it measures here means nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

SMALL = {
    "agents": ("--episodes", "16", "--concurrent", "8", "--answer-seconds", "0.01"),
    "collapse": (
        *("--runs", "tis_token+signal,none+centred", "--task", "sort16", "--steps", "1"),
        *("--frozen", "start", "--batches", "2,2", "--centred"),
        *("--model", str(BENCHMARKS.parent / "examples" / "sort16" / "model")),
    ),
    "correction": ("--sequences", "8", "--length", "64"),
    "diffusion": (
        *("--ways", "e5m2/ais", "--seeds", "1", "--digits", "2", "--steps", "2", "--groups", "2"),
        *("--accuracy", "0", "--held-out", "16"),
    ),
    "drift": (
        *("--model", str(BENCHMARKS.parent / "examples" / "sort16" / "model"), "--tokens", "32"),
        *("--prompt", "3141592653589793=", "--groups", "3", "--samples", "4"),
    ),
    "floods": ("--seconds", "1", "--scale", "0.1", "--floods", "idle,endless"),
    "fuzz": ("--inputs", "3000", "--targets", "reply,event"),
    "lengths": ("--lengths", "16,64", "--drawn", "512", "--worlds", "1", "--batches", "2"),
    "judging": ("--workers", "2", "--responses", "16", "--hanging", "8", "--seconds", "0.5"),
    "lora": ("--layers", "1"),
    "mismatch": ("--engine", "torch", "--prompts", "2", "--explain"),
    "models": ("--engines", "torch", "--families", "Qwen3", "--formats", "fp8"),
    "peers": ("--contenders", "fp8", "--rounds", "1", "--steps", "6"),  # no peers: nothing is installed
    "prompts": ("--lengths", "8x4", "--samples", "2", "--rounds", "1"),
    "queue": ("--groups", "16", "--rounds", "1"),
    "ranks": ("--steps", "1", "--layers", "1", "--vocabulary", "256"),
    "rollout": ("--rounds", "1"),
    "scale": ("--replicas", "1", "--seconds", "15", "--no-limit"),
    "security": ("--rounds", "1", "--groups", "16", "--megabytes", "4"),
    "train": (
        *("--only", "steps", "watching", "traces", "--steps", "5"),
        *("--rounds", "1", "--run-steps", "4", "--trace-rounds", "1"),
    ),
    "truncation": ("--prompts", "2", "--samples", "4"),
    "updates": ("--engine", "torch", "--updates", "2"),
    "weights": ("--megabytes", "4", "--replicas", "2", "--rounds", "1", "--deltas", "1"),
}
OBSERVING = ("--only", "observing", "observing_rollouts", "--observing-rounds", "1")
"""The other parts of `train`."""
SHARED = ("--only", "shared", "--megabytes", "4", "--replicas", "2", "--rounds", "1")
"""The other part of `weights`."""
PROMETHEUS = {"silence": ("--runs", "demo", "--demo-steps", "20", "--after", "0")}
CHROMIUM = {"console": ("--steps", "500", "--replicas", "10", "--additions", "2")}
VLLM = {
    "models": ("--routing", "--families", "Qwen3-MoE", "--formats", "fp8"),
    "rollout": (
        *("--engine", "vllm", "--model", "tiny", "--precisions", "bf16"),
        *("--batches", "1", "--rounds", "1", "--response", "4"),
    ),
    "updates": ("--engine", "vllm", "--updates", "2"),
}


def test_every_benchmark_has_a_small_run() -> None:
    files = {path.stem for path in BENCHMARKS.glob("[a-z]*.py")}
    folders = {path.parent.name for path in BENCHMARKS.glob("*/__main__.py")}
    known = SMALL | PROMETHEUS | CHROMIUM
    assert (files | folders) - {"gpu"} == known.keys()  # its parts: tests/unit/benchmarks/test_gpu_parts.py


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_ends_with_its_figures_as_a_line_of_json(name: str, tmp_path: Path) -> None:
    if name == "weights" and "avx512f" not in Path("/proc/cpuinfo").read_text("utf-8"):
        pytest.skip("its deltas are of 107M parameters trained in BF16: minutes on a processor without AVX-512")
    assert_figures(name, SMALL[name], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_being_observed_costs_a_step_and_rollouts_is_measured(tmp_path: Path) -> None:
    assert_figures("train", OBSERVING, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pushes_through_a_shared_directory_are_measured(tmp_path: Path) -> None:
    assert_figures("weights", SHARED, tmp_path)


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROMETHEUS)
def test_a_benchmark_with_a_prometheus_ends_with_its_figures_as_a_line_of_json(name: str, tmp_path: Path) -> None:
    assert_figures(name, PROMETHEUS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.chromium
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHROMIUM)
def test_a_benchmark_with_a_browser_ends_with_its_figures_as_a_line_of_json(name: str, tmp_path: Path) -> None:
    assert_figures(name, CHROMIUM[name], tmp_path)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", VLLM)
def test_a_benchmark_of_vllm_ends_with_its_figures_as_a_line_of_json(name: str, tmp_path: Path) -> None:
    assert_figures(name, VLLM[name], tmp_path)


def assert_figures(name: str, arguments: tuple[str, ...], results: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "bench", name, *arguments],
        env={**os.environ, "AIS_BENCH_RESULTS": str(results), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bench"] == name
    assert found["figures"]
    for figure, value in found["figures"].items():
        assert math.isfinite(value["value"] if isinstance(value, dict) else value), figure
