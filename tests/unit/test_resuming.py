"""What a run may go on with, and what a refusal leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ais.resuming import FIXED, check_resumable
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError
from ais.settings import Settings, load, to_toml

EXAMPLE = Path(__file__).parents[2] / "examples" / "sort16"


@pytest.mark.parametrize(
    "override",
    [
        "run.steps=500",
        "run.max_staleness=3",
        "trainer.optimizer.learning_rate=0.01",
        "rollout.precision.weights=bf16",
        "rollout.replicas=7",
        "correction.method=tis",
        "launcher.evaluation_prompts=0",
        "redis.url=redis://elsewhere/0",
        "collector.sampling.max_new_tokens=30",
    ],
)
def test_what_leaves_the_run_the_same_run_may_change(override: str) -> None:
    check_resumable(load(EXAMPLE / "config.toml"), load(EXAMPLE / "config.toml", [override]))


@pytest.mark.parametrize(
    "override",
    [
        "run.groups_per_batch=16",
        "run.samples_per_group=4",
        "run.seed=1",
        "run.model=examples",
        "collector.task.digits=8",
        "collector.task.name=reasoning_gym",
        "collector.task.verifier=regular_expression",
        "collector.prompt.system=Sort.",
        "collector.prompt.template_arguments.thinking=true",
    ],
)
def test_what_makes_it_another_run_is_refused_with_what_may_change(override: str) -> None:
    more = ['collector.task.datasets=[{name = "gcd"}]'] if "reasoning_gym" in override else []
    with pytest.raises(SettingsError) as error:
        check_resumable(load(EXAMPLE / "config.toml"), load(EXAMPLE / "config.toml", [override, *more]))
    said = str(error.value)
    assert override.partition("=")[0] in said
    assert "Nothing was changed" in said
    assert all(key in said for key in FIXED)
    assert "{" not in said


def test_the_path_of_something_that_was_moved_may_change(tmp_path: Path) -> None:
    gone = load(None, [f"run.model={tmp_path / 'gone'}"])
    check_resumable(gone, load(None, [f"run.model={EXAMPLE / 'model'}"]))
    (tmp_path / "link").symlink_to(EXAMPLE / "model")
    check_resumable(load(None, [f"run.model={EXAMPLE / 'model'}"]), load(None, [f"run.model={tmp_path / 'link'}"]))


def ais(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ais.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd)


def begun(directory: Path, toml: str) -> dict[str, bytes]:
    directory.mkdir()
    (directory / "config.toml").write_text(toml, encoding="utf-8")
    return contents(directory)


def contents(directory: Path) -> dict[str, bytes]:
    """All but the empty lock files."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("run.groups_per_batch=4", 2),
        ("run.model=/nonexistent", 2),
        ("run.steps=none", 2),
        ("collector.sampling.max_new_tokens=2000", 2),
        ("wandb=true", 2),
    ],
)
def test_a_refused_resume_leaves_no_trace(tmp_path: Path, override: str, code: int) -> None:
    run = tmp_path / "runs" / "demo"
    run.parent.mkdir()
    before = begun(run, to_toml(load(EXAMPLE / "config.toml")))
    done = ais("resume", "demo", "--set", override, "--set", "run.max_staleness=2", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert contents(run) == before


def test_the_settings_of_an_earlier_release_are_read_with_their_keys_moved(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[run]\nmodel = "some/model"\n[trainer]\nlearning_rate = 0.5\nranks = 2\nsave_every_steps = 3\n'
        'push_attempts = 9\nhttp_port = 80\n[correction]\nmethod = "tis"\n'
    )
    with pytest.raises(SettingsError, match="has moved"):
        read_settings(Settings, file, environment={})
    settings = read_settings(Settings, file, environment={}, earlier_release=True)
    assert settings.run.model == Path("some/model")  # it counted from the current directory then
    trainer = settings.trainer
    assert (trainer.optimizer.learning_rate, trainer.ranks.count, trainer.http_port) == (0.5, 2, 80)
    assert (trainer.checkpoints.every_steps, trainer.push.attempts) == (3, 9)
    assert read_settings(Settings, file, ["trainer.ranks.count=1"], {}, earlier_release=True).trainer.ranks.count == 1


def test_settings_that_no_release_knows_are_refused_with_what_to_do(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    begun(run, "[trainer]\nflux = 1\n")
    done = ais("resume", str(run), cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown setting trainer.flux" in done.stderr
    assert str(run / "config.toml") in done.stderr
    assert "change these lines" in done.stderr
