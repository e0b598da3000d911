"""The GPU's measurements where there is none: what they say, that parts work on a processor, and that they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
import torch

from ais.runtime.exits import EXIT_FAILED, EXIT_UNAVAILABLE
from benchmarks.gpu import processes, timing
from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.points import FILE, Points, Session
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks" / "gpu"


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)


def small(part: str, out: Path) -> list[str]:
    return [part, "--device", "cpu", "--small", "--out", str(out)]


def session(out: Path, seconds: float = 60.0) -> Session:
    return Session("part", out, "cpu", small=True, end=monotonic() + seconds)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_script_says_so_and_measures_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "AIS_WHEELS"}
    done = subprocess.run(
        ["bash", FOLDER / "run.sh", "--out", tmp_path / "out"],
        env={**environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_UNAVAILABLE, done.stderr
    assert "there is no GPU here that torch can use" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["correction", "rollout", "trainer"])
def test_a_part_measures_its_points_on_a_processor(part: str, tmp_path: Path) -> None:
    assert main(small(part, tmp_path)) == 0
    found = json.loads((tmp_path / FILE).read_text("utf-8"))
    assert found["machine"]["host"]
    assert len(found["points"]) >= 3
    for point in found["points"]:
        assert point["part"] == part
        assert "error" not in point["values"]


def test_a_part_goes_on_with_the_points_that_are_missing(tmp_path: Path) -> None:
    assert main(small("correction", tmp_path)) == 0
    file = tmp_path / FILE
    before = json.loads(file.read_text("utf-8"))
    kept, failed = before["points"][:-2], before["points"][-1] | {"values": {"error": "killed"}}
    file.write_text(json.dumps(before | {"points": [*kept, failed]}), encoding="utf-8")
    assert main(small("correction", tmp_path)) == 0
    after = json.loads(file.read_text("utf-8"))
    assert after["points"][: len(kept)] == kept
    assert {point["name"] for point in after["points"]} == {point["name"] for point in before["points"]}
    assert not any("error" in point["values"] for point in after["points"])


def test_a_point_that_fails_is_kept_with_its_reason_and_the_next_is_measured(tmp_path: Path) -> None:
    part = session(tmp_path)
    part.measure("broken", lambda: {"share": 1 / 0})
    part.measure("whole", lambda: {"share": 1.0})
    points = Points(tmp_path / FILE)
    assert [(point["name"], point["values"]) for point in points.all] == [
        ("broken", {"error": "ZeroDivisionError: division by zero"}),
        ("whole", {"share": 1.0}),
    ]
    assert part.missing == ["broken"]
    assert not points.is_done("part", "broken")


def test_no_point_is_begun_when_the_time_is_up(tmp_path: Path) -> None:
    part = session(tmp_path, seconds=0.0)
    part.measure("late", lambda: {"share": 1.0})
    assert part.missing == ["late"]
    assert not (tmp_path / FILE).exists()


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    told = tmp_path / "process"
    code, late = processes.run(["sh", "-c", f"sleep 60 & echo $! > {told}; wait"], seconds=0.0)
    assert (code, late) == (-signal.SIGTERM, True)
    state = Path(f"/proc/{told.read_text('utf-8').strip()}/status")
    eventually(lambda: not state.exists() or "Z (zombie)" in state.read_text("utf-8"))


def test_parts_run_one_after_the_other_and_one_that_fails_ends_none(tmp_path: Path) -> None:
    """`compare` without a file ends at once."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "compare", *small("correction:1", tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "compare needs the settings of a comparison" in done.stderr
    assert any(point["part"] == "correction" for point in Points(tmp_path / FILE).all)


def test_every_part_is_a_module_that_measures() -> None:
    assert {part for part in PARTS if not (FOLDER / f"{part}.py").is_file()} == set()
