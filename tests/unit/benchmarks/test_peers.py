"""`ais bench peers`: what it makes of courses, how it follows a training, and what it says where peers are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ais.runtime.exits import UnavailableError
from benchmarks.against_peers.course import Course, TrainingFailedError, follow, processor_seconds
from benchmarks.against_peers.environment import STAMP, TRL, default_cache, trl_python
from benchmarks.against_peers.problem import PROBLEMS
from benchmarks.against_peers.ratios import correction_figures, lines_of, training_figures
from benchmarks.against_peers.training import Training, by_trl, trl_job
from benchmarks.peers import Courses, arguments_of, in_turns

WRITER = """
import json, pathlib, sys, time
file = pathlib.Path(sys.argv[1]); file.parent.mkdir()
with file.open("w") as lines:
    for step in range(int(sys.argv[2])):
        end = time.process_time() + 0.05
        while time.process_time() < end: pass
        print(json.dumps({"time": float(step), "reward_mean": 0.1 * step}), file=lines, flush=True)
        time.sleep(0.3)
"""


def course(seconds: float, rewards: list[float]) -> Course:
    return Course(tuple(10.0 + seconds * step for step in range(len(rewards))), tuple(rewards), 2.0 * seconds)


def test_a_reward_is_reached_when_five_steps_in_a_row_have_it_on_average() -> None:
    made = course(2.0, [1.0, 0.0, 0.75, 0.75, 0.75, 0.75, 0.75])

    assert made.steps_to(0.75) == 7
    assert made.seconds_to(0.75) == 12.0
    assert made.steps_to(0.76) is None
    assert made.seconds_to(0.76) is None


def test_first_steps_are_in_no_steps_time() -> None:
    assert Course((0.0, 90.0, 99.0, 100.0, 101.0, 103.0, 104.0), (0.0,) * 7, 1.0).step_seconds == 1.0


def test_figures_are_medians_over_the_rounds_next_to_those_of_trl() -> None:
    rising = [0.5, 0.625, 0.75, 0.75, 0.75, 0.75, 0.75]
    found = training_figures(
        {"trl": [course(4.0, rising)] * 3, "fp8": [course(1.0, rising), course(2.0, rising), course(3.0, rising)]}, 0.75
    )

    assert found["fp8_step"] == {
        "value": 2.0,
        "unit": "s",
        "reference": 4.0,
        "ratio": 0.5,
        "lowest": 1.0,
        "highest": 3.0,
    }
    assert found["fp8_seconds_to_reward"]["ratio"] == 0.5
    assert found["fp8_steps_to_reward"]["ratio"] == 1.0
    assert found["trl_step"]["reference"] is None
    assert ("fp8 step", "2 s (1 to 3)", "2.00") in lines_of(found)


def test_rounds_that_did_not_reach_the_reward_are_told() -> None:
    found = training_figures({"fp8": [course(1.0, [0.5] * 9), course(1.0, [0.9] * 9)]}, reward=0.8)
    assert (found["fp8_rounds_to_reward"]["value"], found["fp8_rounds_to_reward"]["reference"]) == (1, 2)


def test_the_faster_of_the_peers_is_the_reference() -> None:
    found = training_figures(
        {"trl": [course(4.0, [0.5] * 9)], "trl_float32": [course(3.0, [0.5] * 9)], "int8": [course(1.5, [0.5] * 9)]},
        reward=None,
    )

    assert found["int8_step"]["ratio"] == 0.5
    assert found["int8_step_processor"]["reference"] == 6.0
    assert found["trl_step"]["reference"] is None
    assert found["trl_float32_step"]["reference"] is None
    assert not any("reward" in name for name in found)


def test_what_is_not_said_is_the_problems_own() -> None:
    smollm2, demo = arguments_of(["--problem", "smollm2"]), arguments_of(["--reward", "0.5"])

    assert (smollm2.steps, smollm2.reward, smollm2.contenders) == (8, None, ("trl", "trl_float32", "int8", "bf16"))
    assert (demo.steps, demo.reward, demo.contenders) == (150, 0.5, ("trl", "trl_float32", "fp8", "bf16", "verl"))


def test_a_contender_of_another_problem_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments_of(["--contenders", "trl,int8"])

    assert "unknown contenders: int8; demo has trl, trl_float32, fp8, bf16, verl" in capsys.readouterr().err


def test_a_model_that_was_not_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_RUN__MODEL", str(tmp_path / "none"))

    with pytest.raises(UnavailableError, match="none is no model directory"):
        trl_job(Training(PROBLEMS["smollm2"], tmp_path, steps=6), tmp_path / "steps.jsonl", seed=0, threads=1)


def test_a_reward_that_no_round_reached_has_no_figure() -> None:
    found = training_figures({"trl": [course(4.0, [0.5] * 9)], "fp8": [course(1.0, [0.9] * 9)]}, 0.8)

    assert "trl_seconds_to_reward" not in found
    assert found["fp8_seconds_to_reward"]["ratio"] is None
    assert found["fp8_step"]["ratio"] == 0.25


def test_without_verl_the_correction_is_compared_with_eager_metrics_by_name() -> None:
    eager = {"value": 15.0, "unit": "ms", "reference": 135.0, "ratio": 9.0}
    alone = {"value": 16.0, "unit": "ms", "reference": None, "ratio": None}
    measured = {"sequence_time": eager, "sequence_peak_memory": eager, "padded_time": alone}

    found = correction_figures(measured)

    assert found["correction_packed_time_against_eager_metrics"]["reference"] == 135.0
    assert not any("padded" in name for name in found)


def test_with_verl_both_layouts_are_compared_with_its_helper() -> None:
    one = {"value": 10.0, "unit": "ms", "reference": 25.0, "ratio": 2.5}

    found = correction_figures(
        {f"{kind}_{what}": one for kind in ("padded", "packed") for what in ("time", "peak_memory")}
    )

    assert found["correction_packed_time"]["ratio"] == 0.4
    assert found["correction_padded_peak_memory"]["reference"] == 25.0


@pytest.mark.parametrize(("steps", "target"), [(50, 0.5), (8, 9.0)])
def test_a_training_is_followed_until_it_reaches_the_reward_or_ends(tmp_path: Path, steps: int, target: float) -> None:
    file = tmp_path / "run" / "steps.jsonl"

    made = follow([sys.executable, "-c", WRITER, str(file), str(steps)], os.environ, file, target, 60.0)

    assert made.steps_to(target) == (8 if target == 0.5 else None)
    assert len(made.times) < 20
    assert 0.03 < made.processor_seconds < 1.0


def test_who_cannot_be_measured_is_left_out_and_the_others_are_told_as_they_are_made() -> None:
    def fails(_seed: int, _seconds: float) -> Course:
        raise TrainingFailedError("it ended:\nno VNNI", "no VNNI")

    told: list[tuple[dict[str, int], dict[str, str]]] = []

    def made(courses: Courses, skipped: dict[str, str]) -> None:
        told.append(({name: len(of_one) for name, of_one in courses.items()}, dict(skipped)))

    contenders = {"trl": lambda _seed, _seconds: course(4.0, [0.5] * 9), "int8": fails}
    courses, skipped = in_turns(contenders, rounds=2, seconds=60.0, made=made)

    assert skipped == {"int8": "no VNNI"}
    assert [*courses] == ["trl"]
    assert told == [({"trl": 1}, {}), ({"trl": 1}, skipped), ({"trl": 2}, skipped)]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("loading\nais: rollout-0 ended: no VNNI\nits logs: x", "rollout-0 ended: no VNNI"),
        ("Traceback\nValueError: 3\n", "ValueError: 3"),
        ("", "it made no 3 steps in 60 s"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(output: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "run" / "steps.jsonl"

    with pytest.raises(TrainingFailedError) as caught:
        follow([sys.executable, "-c", f"print({output!r})"], os.environ, file, 0.8, 60.0)

    assert caught.value.reason == reason


def test_a_training_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    file = tmp_path / "run" / "steps.jsonl"

    with pytest.raises(TrainingFailedError, match="no such model"):
        follow([sys.executable, "-c", "raise SystemExit('no such model')"], os.environ, file, 0.8, 60.0)


def test_processor_time_is_that_of_a_process_and_those_below_it() -> None:
    assert processor_seconds(os.getpid()) > 0.0
    assert processor_seconds(2**22 + 1) == 0.0


def test_a_peer_is_asked_for_the_demos_own_prompts_and_optimizer(tmp_path: Path) -> None:
    how = Training(PROBLEMS["demo"], tmp_path, steps=2)

    job = trl_job(how, tmp_path / "steps.jsonl", seed=0, threads=1)

    assert len(job["prompts"]) == 2 * 32  # type: ignore[arg-type]
    prompt, answer = job["prompts"][0]  # type: ignore[index]
    assert prompt == prompt[:16] + "="
    assert "".join(sorted(prompt[:16])) == answer
    assert (job["learning_rate"], job["samples"], job["max_new_tokens"]) == (3e-4, 8, 20)


def test_what_is_installed_is_used_again(tmp_path: Path) -> None:
    pins = [f"trl=={TRL}", *(f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers"))]
    (tmp_path / f"trl-{TRL}").mkdir()
    (tmp_path / f"trl-{TRL}" / STAMP).write_text("\n".join(pins), encoding="utf-8")

    assert trl_python(tmp_path) == tmp_path / f"trl-{TRL}" / "bin" / "python"
    assert not (tmp_path / f"trl-{TRL}" / "bin").exists()  # nothing was touched


def test_peers_are_kept_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert default_cache() == tmp_path / "ais" / "peers"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_a_package_index_one_line_says_what_to_do(tmp_path: Path) -> None:
    alone = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "bench", "peers", "--contenders", "trl", "--cache", str(tmp_path / "peers")],
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )

    assert done.returncode == 3, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith("installing trl==")
    assert "needs a package index that pip knows" in said[-1]
    assert len(said) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trl_trains_the_demo_where_it_is_installed(tmp_path: Path) -> None:
    home = default_cache() / f"trl-{TRL}"
    if not (home / STAMP).is_file():
        pytest.skip("`ais bench peers` has not installed TRL here")

    made = by_trl(trl_python(default_cache()), 1, Training(PROBLEMS["demo"], tmp_path, steps=6), 0, 500.0)

    assert len(made.times) == 6
    assert all(0.1 < reward < 0.6 for reward in made.rewards)  # the policy that the demo begins with
