"""Prompts are seeded and resumable; verifiers judge what they say they judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.tasks.task import open_task


def answered_by(answer: str) -> Prompt:
    return Prompt(prompt_id="p", text="q", answer=answer)


def write_jsonl(path: Path, rows: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": i}) + "\n" for i in range(rows)))
    return path


def test_a_sort_prompt_is_answered_by_its_sorted_digits() -> None:
    prompt = open_task(TaskSettings(digits=16), 0, Split.TRAIN).prompt(3)
    digits, end = prompt.text[:-1], prompt.text[-1]
    assert end == "="
    assert len(digits) == 16
    assert prompt.answer == "".join(sorted(digits))


def test_the_order_of_prompts_depends_on_seed_split_and_ordinal_alone() -> None:
    def texts(seed: int, split: Split) -> list[str]:
        task = open_task(TaskSettings(), seed, split)
        return [task.prompt(ordinal).text for ordinal in (5, 0, 5)]

    first = texts(0, Split.TRAIN)
    assert first == texts(0, Split.TRAIN)
    assert first[0] == first[2] != first[1]
    assert len({first[0], texts(1, Split.TRAIN)[0], texts(0, Split.HELD_OUT)[0], texts(0, Split.DEMONSTRATION)[0]}) == 4


@pytest.mark.parametrize("sampling", [{"min_p": 1.0}, {"top_k": 1}, {"temperature": 0.0}, {"seed": 1}])
def test_sampling_that_cannot_be_trained_on_is_refused_with_the_reason(sampling: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="one token possible|run.seed"):
        CollectorSettings.model_validate({"sampling": sampling})


def test_setting_the_temperature_leaves_the_other_defaults_alone() -> None:
    changed = CollectorSettings.model_validate({"sampling": {"temperature": 0.9}}).sampling
    assert changed.max_new_tokens == CollectorSettings().sampling.max_new_tokens
