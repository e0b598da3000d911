"""The example of guessing a number, run small by `ais run`: FP8 replicas, environments in workers, the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import EXAMPLES, started


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_episodes_ends_well_and_evaluates_both_policies(tmp_path: Path) -> None:
    settings = {"launcher.evaluation_prompts": 4, "launcher.evaluation_checkpoints": 2}
    with started(EXAMPLES / "guess_number" / "config.toml", tmp_path, settings) as run:
        figures = run.ended_well("collector")["collector"]
    samples = run.lines("samples")
    assert len(samples) == 3 * 4 * 8
    for sample in samples:
        assert sample["prompt"] == "^00-31;"
        assert sample["components"]["episode"] == sample["reward"]
        assert 1 <= sample["components"]["turns"] <= 5
        if sample["reward"]:
            assert sample["reward"] == 1.0
            assert sample["response"].endswith(f"{int(sample['answer']):02}$"), sample
    steps = run.lines("steps")
    turns = sum(sample["components"]["turns"] for sample in samples)
    assert sum(step["tokens"] for step in steps) <= 4 * turns
    assert sum(step["updates"] for step in steps) == 3
    endings = {key for key, value in figures.items() if key.startswith("ais_collector_episodes_total") and value}
    assert endings == {f'ais_collector_episodes_total{{ending="{one}"}}' for one in ("done", "turns")}
    evaluated = run.lines("evaluations")
    assert {line["precision"] for line in evaluated} == {"bf16", "e4m3/channel x e4m3"}
    assert {line["step"] for line in evaluated} == {0, 3}


COUNTED = (
    "{% for message in messages %}{{ bos_token }}{% endfor %}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'][-2:] + eos_token }}{% else %}{{ message['content'] }}"
    "{% endif %}{% endfor %}"
)
"""A chat template that counts messages in the head and cuts earlier guesses to two digits: no turn goes on."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_trains_under_a_template_that_has_every_turn_begin_anew(tmp_path: Path) -> None:
    template = tmp_path / "counted.jinja"
    template.write_text(COUNTED)
    settings = {"run.steps": 2, "collector.prompt.chat_template": template}
    with started(EXAMPLES / "guess_number" / "config.toml", tmp_path, settings) as run:
        figures = run.ended_well("collector")["collector"]
        assert "episodes of guess_number begin anew" in run.output
    assert figures["ais_collector_turns_begun_anew_total"] > 0
    for sample in run.lines("samples"):
        heads = [f"{'^' * (2 * turn + 1)}00-31;" for turn in range(int(sample["components"]["turns"]))]
        assert sample["prompt"] == heads[0]
        assert all(head in sample["response"] for head in heads[1:]), sample
    steps = run.lines("steps")
    assert sum(step["updates"] for step in steps) == 2
    # Tokens that were scored behind anything else than what they were sampled after would differ by far more.
    assert max(step["log_ratio_abs_mean"] for step in steps) < 0.05
