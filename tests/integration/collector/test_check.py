"""`python -m ais.collector.check` says before a run what would end it later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE

MODEL = Path(__file__).parents[3] / "examples" / "sort16" / "model"


def check(directory: Path, *overrides: str, **task: Any) -> subprocess.CompletedProcess[str]:
    lines = ["[run]", f"model = {json.dumps(str(MODEL))}", "[rollout]", "max_model_len = 64", "[collector.task]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in task.items()]
    file = directory / "config.toml"
    file.write_text("\n".join(lines))
    sets = [argument for override in overrides for argument in ("--set", override)]
    command = [sys.executable, "-m", "ais.collector.check", "-c", str(file), *sets]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows(path: Path, prompts: list[str]) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": 1}) + "\n" for prompt in prompts))
    return str(path)


def test_a_task_that_can_be_used_passes_in_silence(tmp_path: Path) -> None:
    done = check(tmp_path, name="jsonl", file=rows(tmp_path / "t.jsonl", ["1=", "2=", "3="]))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", ["train.jsonl", "held.jsonl"])
def test_a_prompt_too_long_for_the_replicas_is_found_in_either_file(tmp_path: Path, file: str) -> None:
    task = {
        "name": "jsonl",
        "file": rows(tmp_path / "train.jsonl", ["1=", "2="]),
        "held_out_file": rows(tmp_path / "held.jsonl", ["3="]),
    }
    rows(tmp_path / file, ["4=", "5" * 70 + "="])
    refused = check(tmp_path, **task)
    assert refused.returncode == EXIT_UNAVAILABLE
    assert f"{file}, line 2: prompt: longer than the replicas' context" in refused.stderr
    assert check(tmp_path, 'collector.task.too_long="skip"', **task).returncode == 0


def test_a_pattern_that_does_not_compile_and_settings_that_are_wrong_have_their_exit_codes(tmp_path: Path) -> None:
    pattern = check(tmp_path, name="sort", verifier="regular_expression", pattern="(")
    assert pattern.returncode == EXIT_UNAVAILABLE
    assert "not a regular expression" in pattern.stderr
    setting = check(tmp_path, name="sort", verifiers="regular_expression")
    assert setting.returncode == EXIT_SETTINGS
    assert "collector.task.verifier" in setting.stderr
    assert "Traceback" not in pattern.stderr + setting.stderr
