"""Trackers, told by real processes and read back by their own readers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.steps import read_records
from ais.launcher.tracking.figures import Entry, of_evaluation, of_held_out, of_step
from ais.launcher.tracking.follower import Follower, told_to
from ais.launcher.tracking.run import write_tracked_run
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.settings import load, save
from tests.support.waiting import eventually

LAUNCH = str(Path(__file__).with_name("launch.py"))
TRACKERS = ("tensorboard", "wandb", "trackio")


def line(step: int, incarnation: int) -> dict[str, Any]:
    """A step as the trainer writes it, in small."""
    return {
        "step": step,
        "version": step,
        "time": 1_700_000_000.0 + 100 * incarnation + step,
        "reward_mean": step / 7 + incarnation,
        "alpha": None if step == 1 else 0.1 * step,
        "trusted": step % 2 == 0,
        "tokens": 1000 * step,
        "phase_seconds": {"wait": 0.25 / step},
        "reward_components": {"answer": step / 9, "own.part": -step / 3},
        "judgements_failed": {"overtime": 2} if step == 3 else {},
        "ordinals": [step],
        "digest": "blake3:0",
        "incarnation": incarnation,
    }


def held_out(step: int) -> dict[str, Any]:
    figures = {"reward_mean": step / 13, "pass@2": 0.5, "reward_components": {"answer": step / 17, "own.part": 0.25}}
    return {"step": step, "source": "sums", "time": 1_700_000_000.0 + step, **figures}


def score(step: int) -> dict[str, Any]:
    figures = {"reward_mean": step / 11, "reward_standard_error": 0.1, "prompts": 8}
    return {"step": step, "precision": "bf16", **figures, "reward_components": {"answer": step / 19}}


class Run:
    """A run's directory, written as trainer and evaluation write it."""

    def __init__(self, path: Path, **tracking: Any) -> None:
        path.mkdir()
        self.directory = RunDirectory(path)
        settings = load(None, [f"tracking.{name}={value}" for name, value in tracking.items()])
        save(settings, self.directory.config)
        write_tracked_run(self.directory, settings.model_dump(mode="json"))

    def write_steps(self, *lines: dict[str, Any]) -> None:
        self._append(self.directory.steps, lines)

    def write_scores(self, *lines: dict[str, Any]) -> None:
        self._append(self.directory.evaluations, lines)

    def write_held_out(self, *lines: dict[str, Any]) -> None:
        self._append(self.directory.held_out, lines)

    def rewind(self, step: int) -> None:
        """What a trainer that resumes does."""
        kept = [
            one for one in self.directory.steps.read_text().splitlines(keepends=True) if json.loads(one)["step"] <= step
        ]
        other = self.directory.path / "shorter"
        other.write_text("".join(kept))
        other.replace(self.directory.steps)

    def expected(self) -> dict[str, dict[int, float]]:
        """What its files say, by name and step."""
        columns: dict[str, dict[int, float]] = {}
        entries = [*map(of_step, read_records(self.directory.steps))]
        entries += map(of_held_out, read_records(self.directory.held_out))
        entries += map(of_evaluation, read_records(self.directory.evaluations))
        for entry in entries:
            for name, value in entry.figures.items():
                columns.setdefault(name, {})[entry.step] = value
        return columns

    def _append(self, file: Path, lines: tuple[dict[str, Any], ...]) -> None:
        with file.open("a") as open_file:
            open_file.writelines(json.dumps(one) + "\n" for one in lines)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline"}


@contextmanager
def tracker(run: Run, name: str, environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "ais.launcher.tracking", str(run.directory.path), name, *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def tell(run: Run, name: str, environment: dict[str, str]) -> None:
    with tracker(run, name, environment, "--once") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def read(run: Run, name: str, environment: dict[str, str]) -> dict[str, dict[int, float]]:
    """What the tracker has, by its own reader."""
    command = [sys.executable, "-m", "tests.support.tracker_readers", name, str(run.directory.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    columns = json.loads(done.stdout.splitlines()[-1])
    return {key: {int(step): value for step, value in column.items()} for key, column in columns.items()}


def assert_same(got: dict[str, dict[int, float]], expected: dict[str, dict[int, float]], name: str) -> None:
    assert got.keys() == expected.keys()
    for key, column in expected.items():
        # TensorBoard's numbers are float32.
        assert got[key] == (pytest.approx(column, rel=2e-7) if name == "tensorboard" else column), key


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_has_what_the_files_have_after_a_kill_and_a_rewind(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    run = Run(tmp_path / "demo", trackers=f'["{name}"]', **{"wandb.mode": "offline"})
    run.write_steps(*(line(step, 1) for step in range(1, 6)))
    run.write_scores(score(2))
    with tracker(run, name, environment) as process:
        eventually(lambda: len(told_to(run.directory, f"tracker-{name}")) == 6 or process.poll() is not None, 60)
        run.rewind(3)  # the trainer was killed, the next one goes on from a checkpoint
        run.write_steps(*(line(step, 2) for step in range(4, 8)))
        eventually(lambda: len(told_to(run.directory, f"tracker-{name}")) == 8 or process.poll() is not None, 60)
        os.killpg(process.pid, signal.SIGKILL)
    run.write_steps(line(8, 2))
    run.write_held_out(held_out(6))
    run.write_scores(score(0), score(7))
    tell(run, name, environment)
    expected = run.expected()
    assert {
        "reward_components.own.part",
        "judgements_failed.overtime",
        "held_out/sums/reward_components.own.part",
        "evaluation/bf16/reward_components.answer",
    } <= expected.keys()
    assert_same(read(run, name, environment), expected, name)


def test_wandb_has_settings_without_secrets_and_the_machine(tmp_path: Path, environment: dict[str, str]) -> None:
    run = Run(tmp_path / "demo", trackers='["wandb"]', **{"wandb.mode": "offline", "wandb.entity": "team"})
    settings = load(None, ["redis.url=redis://user:geheim@host", "tracking.wandb.mode=offline"])
    write_tracked_run(run.directory, settings.model_dump(mode="json"))
    run.write_steps(line(1, 1))
    tell(run, "wandb", environment)
    content = b"".join(path.read_bytes() for path in (tmp_path / "demo").rglob("*") if path.is_file())
    assert b"groups_per_batch" in content
    assert b"geheim" not in content


class Server:
    """A tracker that cannot be rewritten, like one on a server."""

    rewrites = False

    def __init__(self) -> None:
        self.steps: list[int] = []

    def begin(self) -> int:
        return len(self.steps)

    def log(self, entry: Entry) -> None:
        self.steps.append(entry.step)

    def close(self) -> None:
        pass


def test_a_tracker_that_cannot_be_rewritten_keeps_its_first_figures_which_are_counted(tmp_path: Path) -> None:
    run, server = Run(tmp_path / "demo"), Server()
    run.write_steps(*(line(step, 1) for step in range(1, 6)))
    follower = Follower(run.directory, "server", server)
    follower.catch_up()
    run.rewind(3)
    run.write_steps(*(line(step, 2) for step in range(4, 7)))
    follower.catch_up()
    assert server.steps == [1, 2, 3, 4, 5, 6]
    assert follower.kept == 2


def test_what_a_killed_follower_had_told_and_a_server_never_got_is_told_again(tmp_path: Path) -> None:
    run, server = Run(tmp_path / "demo"), Server()
    run.write_steps(*(line(step, 1) for step in range(1, 6)))
    Follower(run.directory, "server", server).catch_up()
    del server.steps[3:]
    Follower(run.directory, "server", server).catch_up()
    assert server.steps == [1, 2, 3, 4, 5]


def test_a_server_that_never_answers_delays_no_run_and_what_it_lacks_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path / "demo", trackers='["wandb"]')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = {"WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "WANDB_API_KEY": "0" * 40}
        command = [sys.executable, LAUNCH, str(run.directory.path), '["--steps", "5", "--step-seconds", "0.5"]']
        environment = os.environ | server | {"AIS_TEST_TRACKERS": "wandb"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 5/5" in done.stdout
    assert "tracker-wandb has 0 of 5 entries" in done.stdout
    times = [record["time"] for record in read_records(run.directory.steps)]
    assert times[-1] - times[0] < 4 * 0.5 + 2.0  # the steps themselves take 0.5 s each


def test_telling_a_tracker_that_was_not_chosen_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "demo")
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "track", str(run.directory.path)], capture_output=True, text=True
    )
    assert done.returncode == EXIT_SETTINGS
    assert "tracking.trackers" in done.stderr


HIDE_TRACKIO = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "trackio" else find(name, *more)
from ais.cli import main
main()
"""


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(tmp_path: Path) -> None:
    run = Run(tmp_path / "demo", trackers='["trackio"]')
    command = [sys.executable, "-c", HIDE_TRACKIO, "track", str(run.directory.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == EXIT_UNAVAILABLE
    assert "pip install 'ais-rl[trackio]'" in done.stderr


def test_ais_track_tells_several(tmp_path: Path, environment: dict[str, str]) -> None:
    run = Run(tmp_path / "demo")
    run.write_steps(line(1, 1), line(2, 1))
    command = [sys.executable, "-m", "ais.cli", "track", str(run.directory.path)]
    chosen = ["--set", 'tracking.trackers=["tensorboard", "trackio"]']
    done = subprocess.run([*command, *chosen], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("tensorboard", "trackio"):
        assert_same(read(run, name, environment), run.expected(), name)
