"""The launcher against real processes: what it starts, it ends, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ais.launcher.directory.run_directory import RunDirectory, fresh_run_directory
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.settings import load, to_toml

MARK = "AIS_TEST_MARK"
"""Environment variable by which a test finds every process that its launcher started."""
LAUNCH = str(Path(__file__).with_name("launch.py"))
ENDLESS = ["--steps", "100000"]


class Launched:
    """A launcher that runs, and all that descends from it."""

    def __init__(self, directory: RunDirectory, *arguments: str, stderr: int = subprocess.STDOUT) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, LAUNCH, str(directory.path), *arguments],
            env=os.environ | {MARK: str(directory.path)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def descendants(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if process.pid != self.process.pid and self._is(process)]

    def named(self, word: str) -> list[psutil.Process]:
        return [process for process in self.descendants() if word in " ".join(_command(process))]

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def _is(self, process: psutil.Process) -> bool:
        try:  # Valkey's title lies where its environment was, but it works in its data directory
            return process.environ().get(MARK) == str(self.directory.path) or (
                process.cwd() == str(self.directory.valkey)
            )
        except psutil.Error:
            return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


Launcher = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    launched: list[Launched] = []

    def start(
        trainer: list[str],
        *arguments: str,
        directory: RunDirectory | None = None,
        stderr: int = subprocess.STDOUT,
    ) -> Launched:
        directory = directory or fresh_run_directory(tmp_path, "demo")
        launched.append(Launched(directory, json.dumps(trainer), *arguments, stderr=stderr))
        return launched[-1]

    yield start
    for one in launched:
        for process in [*one.descendants(), psutil.Process(one.process.pid)] if one.process.poll() is None else []:
            process.kill()


def running(launched: Launched) -> bool:
    return launched.directory.steps.exists() and len(launched.named("stand_in.py")) >= 4


def test_the_trainers_end_is_the_runs_end(launch: Launcher) -> None:
    launched = launch([])
    code, output = launched.end()
    assert code == 0, output
    assert "step 5/5" in output
    assert not launched.descendants()
    assert json.loads(launched.directory.record.read_text())["status"] == "finished"


@pytest.mark.parametrize("code_of_trainer", [EXIT_SETTINGS, EXIT_UNAVAILABLE])
def test_a_failed_trainer_fails_the_run_with_its_code_and_the_end_of_its_log(
    launch: Launcher, code_of_trainer: int
) -> None:
    launched = launch(["--code", str(code_of_trainer)])
    code, output = launched.end()
    assert code == code_of_trainer
    assert "this is what the trainer said last" in output
    assert not launched.descendants()
    assert json.loads(launched.directory.record.read_text())["status"] == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_within_seconds(launch: Launcher, number: signal.Signals) -> None:
    launched = launch(ENDLESS)
    eventually(lambda: running(launched))
    begun = time.monotonic()
    launched.process.send_signal(number)
    code, output = launched.end()
    assert code == 128 + number, output
    assert time.monotonic() - begun < 5.0
    assert not launched.descendants()


def test_a_service_that_ignores_sigterm_is_killed(launch: Launcher) -> None:
    launched = launch(ENDLESS, "deaf")
    eventually(lambda: running(launched))
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end()[0] == 128 + signal.SIGTERM
    assert not launched.descendants()


def test_a_killed_launcher_leaves_nothing_behind(launch: Launcher) -> None:
    launched = launch(ENDLESS)
    eventually(lambda: running(launched) and launched.named("valkey-server"))
    launched.process.kill()
    launched.process.wait()
    # The sleeping grandchild is not ours to end: only the launcher itself can sweep a whole family.
    eventually(lambda: not launched.named("stand_in.py") and not launched.named("valkey-server"))
    for process in launched.descendants():
        process.kill()


@pytest.mark.parametrize(
    "victim", ["stand_in.py replica", "stand_in.py collector", "stand_in.py trainer", "valkey-server"]
)
def test_a_killed_process_is_replaced_and_the_run_goes_on(launch: Launcher, victim: str) -> None:
    launched = launch(ENDLESS)
    eventually(lambda: running(launched) and launched.named(victim))
    before = {process.pid for process in launched.named(victim)}
    psutil.Process(min(before)).kill()
    eventually(lambda: {process.pid for process in launched.named(victim)} - before)
    done = len(launched.directory.steps.read_text().splitlines())
    eventually(lambda: len(launched.directory.steps.read_text().splitlines()) > done)
    launched.process.terminate()
    code, output = launched.end()
    assert code == 128 + signal.SIGTERM, output
    assert "was ended by SIGKILL; starting it again" in output
    assert not launched.descendants()


def test_a_run_is_scaled_while_it_goes_on(launch: Launcher) -> None:
    launched = launch(ENDLESS)
    eventually(lambda: running(launched))
    first = min(process.pid for process in launched.named("stand_in.py replica"))
    said = scale(launched, 4)
    assert (said.returncode, "is to have 4 rollout replicas" in said.stdout) == (0, True)
    eventually(lambda: len(launched.named("stand_in.py replica")) == 4)
    assert scale(launched, 1).returncode == 0
    eventually(lambda: [process.pid for process in launched.named("stand_in.py replica")] == [first])
    psutil.Process(first).kill()
    eventually(lambda: [process.pid for process in launched.named("stand_in.py replica")] not in ([], [first]))
    assert len(launched.named("stand_in.py replica")) == 1  # those that were ended are not started again
    launched.process.terminate()
    code, output = launched.end()
    assert code == 128 + signal.SIGTERM, output
    assert not launched.descendants()


def test_a_run_that_nobody_drives_cannot_be_scaled(launch: Launcher) -> None:
    launched = launch([])
    launched.end()
    refused = scale(launched, 4)
    assert refused.returncode == EXIT_UNAVAILABLE
    assert "no `ais run` is at work" in refused.stderr


def scale(launched: Launched, replicas: int) -> subprocess.CompletedProcess[str]:
    """`ais scale`, as a user says it."""
    launched.directory.config.touch()  # the stand-ins' launcher writes none
    command = [sys.executable, "-m", "ais.cli", "scale", str(launched.directory.path), str(replicas)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code_of_collector", [EXIT_SETTINGS, EXIT_UNAVAILABLE])
def test_what_is_wrong_for_good_fails_the_run_at_once_with_its_code_and_reason(
    launch: Launcher, code_of_collector: int
) -> None:
    launched = launch(ENDLESS, "dies", "--code", str(code_of_collector))
    code, output = launched.end()
    assert code == code_of_collector
    assert f"collector ended with exit code {code_of_collector}: this is why it died" in output
    assert "starting it again" not in output
    assert not launched.descendants()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_a_service_warns_of_again_and_again_stands_on_the_screen_once(launch: Launcher, log_format: str) -> None:
    launched = launch(ENDLESS, "complains", "--log-format", log_format)
    log = launched.directory.logs / "collector.log"
    eventually(lambda: running(launched) and log.read_text().count("nobody answers") > 60)
    launched.process.terminate()
    _code, output = launched.end()
    assert output.count("collector: nobody answers, attempt") == 1
    assert "collector: metrics at http://127.0.0.1:1/metrics" in output


def test_a_second_launcher_is_refused_at_once_and_changes_nothing(launch: Launcher) -> None:
    launched = launch(ENDLESS)
    eventually(lambda: running(launched))
    config = launched.directory.config
    config.write_text(to_toml(load(None, [f"run.name={launched.directory.name}"])))
    before = config.read_bytes()
    for arguments in ((), ("--set", "trainer.optimizer.learning_rate=0.01")):
        refused = resume(launched.directory.path, *arguments)
        assert refused.returncode == EXIT_UNAVAILABLE
        assert "drives" in refused.stderr
        assert "waiting" not in refused.stderr
        assert "go on:" not in refused.stderr
    assert config.read_bytes() == before
    assert launched.process.poll() is None


def resume(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ais.cli", "resume", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_resumed_run_starts_when_the_processes_of_a_killed_launcher_have_ended(launch: Launcher) -> None:
    launched = launch(ENDLESS)
    eventually(lambda: running(launched))
    launched.process.kill()
    launched.process.wait()
    again = launch([], directory=launched.directory)
    code, output = again.end()  # the sleeping grandchild holds the lock
    assert code == EXIT_UNAVAILABLE or "step 5/5" in output
    for process in again.descendants():
        process.kill()


def test_a_run_forgets_what_ais_scale_asked_of_the_one_before(launch: Launcher, tmp_path: Path) -> None:
    directory = fresh_run_directory(tmp_path, "scaled")
    directory.replicas.write_text("4\n")
    launched = launch(ENDLESS, directory=directory)
    eventually(lambda: running(launched))
    assert len(launched.named("stand_in.py replica")) == 2
    assert not directory.replicas.exists()
    launched.process.terminate()
    launched.end()


def test_a_run_whose_output_nobody_reads_any_more_ends_quietly(launch: Launcher) -> None:
    launched = launch(ENDLESS, stderr=subprocess.PIPE)
    eventually(lambda: running(launched))
    assert launched.process.stdout is not None
    launched.process.stdout.close()
    eventually(lambda: launched.process.poll() is not None)
    assert launched.process.stderr is not None
    assert "Traceback" not in launched.process.stderr.read()
    assert json.loads(launched.directory.record.read_text())["status"] == "stopped"
    assert not launched.descendants()
