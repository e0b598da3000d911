"""The command line: quick, and helpful when something is misspelt."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ais.cli import app
from ais.runtime.explaining import known_keys
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError
from ais.settings import Settings, load, to_toml
from ais.trainer.settings import TrainerSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "sort16" / "config.toml"


def ais(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ais.cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["run", "rollout", "collector", "trainer", "config"])
def test_a_misspelt_key_fails_within_two_seconds_with_the_nearest_name(command: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = ais(command, "--set", "run.stps=5")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 2.0  # of the processor: what else the machine does is not this command's matter
    assert done.returncode == 2
    assert "run.stps" in done.stderr
    assert "run.steps" in done.stderr


def test_a_misspelt_environment_variable_is_told_too() -> None:
    done = ais("config", AIS_ROLLOUT__REPLCAS="3")
    assert done.returncode == 2
    assert "rollout.replicas" in done.stderr


def test_every_wrong_key_is_told_at_once() -> None:
    done = ais("config", "--set", "run.stps=5", "--set", "correction.metod=ais", "--set", "trainer.optimizer.beta1=2")
    assert done.returncode == 2
    assert all(key in done.stderr for key in ("run.steps", "correction.method", "trainer.optimizer.beta1"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("correction.method=tis", "trainer.objective.straight_through=true"), "correction.method"),
        (("trainer.objective.centring=true",), "correction.method"),
        (("correction.method=none", "trainer.objective.centring=true", "trainer.objective.name=gspo"), "ppo_clip"),
        (("evaluation.metric=gsm8k/reward_mean",), "there are: sort16"),
        (("run.routing_replay=true",), "run.routing_replay needs rollout.engine = 'vllm'"),
        (("rollout.drain_seconds=40", "launcher.stop_grace_seconds=30"), "a replica would be killed while it drains"),
    ],
)
def test_sections_that_do_not_fit_each_other_are_told(overrides: tuple[str, ...], told: str) -> None:
    done = ais("config", *(argument for override in overrides for argument in ("--set", override)))
    assert done.returncode == 2
    assert told in done.stderr


def test_the_command_line_loads_no_heavy_library() -> None:
    code = (
        "import ais.cli, ais.settings, sys;"
        "print({'torch', 'transformers', 'matplotlib', 'grpc', 'redis'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    settings = load(
        EXAMPLE,
        [
            f"run.directory={tmp_path / 'rüns'}",
            "run.name=2025",
            "run.steps=7",
            "collector.sampling.stop_token_ids=[1, 2]",
            "collector.task.verifier=regular_expression",
            'collector.task.pattern="ä\\n\\\\d"',
            'correction.rejections=[{statistic = "k1", upper = 0.5}]',
            "correction.mixing.mismatch_limit=inf",
            'collector.task.datasets=[{name = "gcd", parameters = {max_num = 9, "other key" = [1, 2]}}]',
            'collector.prompt.template_arguments={style = "a\\"b", enable_thinking = false}',
        ],
    )
    file = tmp_path / "config.toml"
    file.write_text(to_toml(settings), encoding="utf-8")
    assert read_settings(Settings, file, environment={}) == settings


def test_printed_settings_mean_the_same_wherever_they_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(load(EXAMPLE)), encoding="utf-8")
    kept = load(file)
    assert (kept.run.model, kept.run.directory) == (EXAMPLE.parent / "model", Path("runs").absolute())


def test_printed_settings_list_what_each_choice_allows() -> None:
    printed = to_toml(load(EXAMPLE))
    for choices, setting in (
        ("torch, vllm, replay", "engine"),
        ("bf16, e4m3, e5m2, e2m1, int8", "weights"),
        ("exact_match, last_step, regular_expression, numeric", "verifier"),
        ("debug, info, warning, error", "level"),
        ("none, tis, mis", "method"),
        ("previous_batch, same_batch", "evaluation"),
    ):
        assert re.search(rf"# One of: {choices}[^.]*\.\n(# )?{setting} =", printed), setting


def test_printed_settings_document_every_key() -> None:
    lines = to_toml(load(EXAMPLE)).splitlines()
    undocumented = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if " = " in line and not line.startswith("# ") and not before.startswith("#")
    ]
    assert undocumented == []
    printed = {line.removeprefix("# ").partition(" = ")[0] for line in lines if " = " in line}
    assert {key.rpartition(".")[2] for key in known_keys(Settings)} <= printed


def test_the_example_is_what_the_demo_promises() -> None:
    settings = load(EXAMPLE)
    assert settings.rollout.replicas == 2
    assert settings.rollout.precision.weights == "e4m3"
    assert settings.collector.task.digits == 16
    assert (settings.correction.method, settings.correction.mixing.evaluation) == ("ais", "same_batch")


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "rollout",
        "collector",
        "trainer",
        "eval",
        "chat",
        "report",
        "track",
        "data",
        "init",
        "config",
        "warmstart",
        "bench",
    ],
)
def test_the_help_of_every_command_shows_how_it_is_called(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"] if command != "bench" else ["--help"])
    assert result.exit_code == 0
    assert f"ais {command}" in result.output or command == "bench"


def test_a_model_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = ais("run", "--set", f"run.model={tmp_path / 'none'}", "--set", f"run.directory={tmp_path / 'runs'}")
    assert done.returncode == 3
    assert "ais warmstart" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = ais("report", "nothing", "--set", f"run.directory={tmp_path}")
    assert done.returncode == 3
    assert "nothing" in done.stderr


def test_an_unknown_benchmark_is_told_with_those_there_are() -> None:
    done = ais("bench", "nothing")
    assert done.returncode == 2
    assert "there is no benchmark nothing" in done.stderr


def test_the_queues_benchmark_is_called_queue_though_its_file_is_not() -> None:
    done = ais("bench", "queue", "--help")
    assert done.returncode == 0, done.stderr
    assert "trajectories" in done.stdout
    known = ais("bench", "nothing").stderr
    assert "queue" in known
    assert "trajectory_queue" not in known


def test_every_key_of_an_earlier_release_is_refused_with_its_new_place() -> None:
    known = known_keys(Settings)
    moved = TrainerSettings.moved
    assert len(moved) > 30
    for old, new in moved.items():
        assert f"trainer.{new}" in known
        with pytest.raises(SettingsError, match=re.escape(f"setting trainer.{old} has moved: it is trainer.{new} now")):
            load(None, [f"trainer.{old}=1"])
