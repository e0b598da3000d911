"""`ais run` and `ais eval` with the real services and the demo's policy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from ais.settings import load, to_toml
from ais.tracing.command import trace_of
from ais.tracing.stations import LEGS

ROOT = Path(__file__).parents[3]
CONFIG = "examples/sort16/config.toml"
TWO_COMPONENTS = (
    '[{name = "answer", verifier = "exact_match"}, {verifier = "overlong", longest = 40, buffer = 40, weight = 0.0}]'
)


def ais(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ais.cli", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_trains_evaluates_both_policies_and_reports(tmp_path: Path) -> None:
    small = (
        "run.steps=2",
        "rollout.replicas=3",
        "run.groups_per_batch=4",
        "launcher.evaluation_prompts=16",
        f"run.directory={tmp_path}",
    )
    done = ais("run", "-c", CONFIG, *(part for setting in small for part in ("--set", setting)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out reward, BF16 policy" in done.stdout
    assert "held-out reward, rollout policy" in done.stdout
    run = tmp_path / "demo"
    assert [json.loads(line)["step"] for line in (run / "steps.jsonl").read_text().splitlines()] == [1, 2]
    evaluated = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert {(score["precision"], score["step"]) for score in evaluated} == {
        (precision, step) for precision in ("bf16", "e4m3/channel x e4m3") for step in (0, 2)
    }
    assert AutoModelForCausalLM.from_pretrained(run / "model").num_parameters() == 101_568
    assert "<svg" in (run / "report.html").read_text()
    trace = trace_of(RunDirectory(run), "5")
    assert [one.place for one in trace.stations][-len(LEGS) :] == list(LEGS), trace
    assert all(one.seconds is None or one.seconds > -0.01 for one in trace.stations[:-2]), trace


@pytest.mark.slow
def test_a_saved_model_is_scored_on_held_out_prompts() -> None:
    done = ais("eval", "examples/sort16/model", "--prompts", "64", "-c", CONFIG)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"reward ([\d.]+) ± ([\d.]+)  \(bf16, 64 held-out prompts, temperature 1\)\n", done.stdout)
    assert found is not None, done.stdout
    mean, standard_error = map(float, found.groups())
    assert 0.1 < mean < 0.5  # the warm start solves about 30%
    assert standard_error == pytest.approx((mean * (1 - mean) / 63) ** 0.5, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_several_responses_give_pass_at_k_and_every_one_is_a_record(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"responses.{suffix}"
    asked = ("--prompts", "8", "--samples", "4", "--temperature", "0.8", "--records", str(file))
    done = ais(
        "eval", "examples/sort16/model", "-c", CONFIG, *asked, "--set", f"collector.task.reward={TWO_COMPONENTS}"
    )
    assert done.returncode == 0, done.stderr
    if suffix == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
    assert len(rows) == 32
    rewards = [row["reward"] for row in rows]
    assert all((row["response"] == row["answer"]) == (row["reward"] == 1.0) for row in rows)
    assert all(len(row["logprobs"]) == len(row["token_ids"]) and row["last_version"] == 0 for row in rows)
    parts = [{one["name"]: one["score"] for one in row["components"]} for row in rows]
    assert all(part.keys() == {"answer", "overlong"} for part in parts)
    assert all(part["answer"] == row["reward"] for part, row in zip(parts, rows, strict=True))
    for name in ("answer", "overlong"):
        assert f"  {name} {sum(part[name] for part in parts) / 32:.3f} ± " in done.stdout
    of_prompts = [rewards[index : index + 4] for index in range(0, 32, 4)]
    passed = sum(1.0 in group for group in of_prompts) / 8
    assert f"sort16: reward {sum(rewards) / 32:.3f} ± " in done.stdout
    assert f"pass@4 {passed:.3f} ± " in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_evaluation_that_fails_costs_no_report_and_resume_only_evaluates(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    (run / "model").mkdir(parents=True)
    (run / "model" / "manifest.json").write_text(json.dumps({"step": 2}))
    (run / "checkpoints" / "step-000002").mkdir(parents=True)  # without weights
    (run / "steps.jsonl").write_text("".join(json.dumps({"step": n, "reward_mean": 0.25}) + "\n" for n in (1, 2)))
    bf16 = ("rollout.precision.weights=bf16", "trainer.float32_head=true")
    settings = load(ROOT / CONFIG, ["run.steps=2", "launcher.evaluation_prompts=4", *bf16])
    (run / "config.toml").write_text(to_toml(settings), encoding="utf-8")
    for _ in range(2):  # the second time it is still to be evaluated
        done = ais("resume", str(run))
        assert done.returncode == 1, done.stdout + done.stderr
        assert "training is finished, its evaluation failed" in done.stderr
        assert "has no model.safetensors" in done.stderr
        assert f"evaluate again:  ais resume {run}" in done.stderr.splitlines()
        assert "training reward" in done.stdout
        assert "held-out reward, BF16 policy" in done.stdout  # the policy it began with was scored
        scored = json.loads((run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        assert scored["precision"] == "bf16, float32 head", "the policy that is trained is scored with its own head"
        assert "0.250" in (run / "report.html").read_text(encoding="utf-8")
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert record["status"] == "finished"
        assert record["reason"].startswith("training is finished, its evaluation failed")
        assert not (run / "logs" / "trainer.log").exists()


@pytest.mark.slow
def test_a_finished_run_is_not_started_again(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    (run / "model").mkdir(parents=True)
    (run / "model" / "manifest.json").write_text(json.dumps({"step": 2}))
    (run / "config.toml").write_text(to_toml(load(ROOT / CONFIG, ["run.steps=2"])), encoding="utf-8")
    (run / "replicas").write_text("9\n")
    record = record_of("demo")
    record.status = "finished"
    record.write(run / "run.json")
    done = ais("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert "is finished: 2 of 2 steps are trained" in done.stdout
    assert f"train on:        ais resume {run} --set run.steps=4" in done.stdout.splitlines()
    assert not (run / "logs").exists()
