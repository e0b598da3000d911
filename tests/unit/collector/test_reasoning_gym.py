"""The real reasoning-gym: its prompts, kept apart by split, and its judgement of answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ais.collector.prompts.prompts import Prompt, Split, TaskError
from ais.collector.settings import ReasoningGymDataset, TaskSettings
from ais.collector.tasks.reasoning_gym import ReasoningGymTask
from ais.collector.tasks.task import open_task
from ais.contracts.sampling import FinishReason
from tests.support.judges import ended, task_verifier

pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")

ADDITION = ReasoningGymDataset(name="chain_sum", parameters={"max_terms": 2, "max_digits": 1})
"""200 different questions."""
STOP = FinishReason.STOP


def settings(*datasets: ReasoningGymDataset, pattern: str | None = None) -> TaskSettings:
    return TaskSettings(name="reasoning_gym", datasets=datasets, pattern=pattern)


def texts(split: Split, prompts: int, *datasets: ReasoningGymDataset) -> list[str]:
    task = open_task(settings(*datasets), 0, split)
    return [task.prompt(ordinal).text for ordinal in range(prompts)]


def test_a_small_dataset_keeps_its_held_out_questions_out_of_training() -> None:
    trained, held_out = set(texts(Split.TRAIN, 2000, ADDITION)), set(texts(Split.HELD_OUT, 500, ADDITION))
    assert not trained & held_out
    assert len(trained) > 120
    assert len(held_out) > 10


def test_a_prompt_depends_on_seed_and_ordinal_alone() -> None:
    first, second = (ReasoningGymTask((ADDITION,), 0, Split.TRAIN) for _ in range(2))
    far = 3 * 4096 + 5
    assert [first.prompt(ordinal) for ordinal in (0, far, 1)] == [
        second.prompt(ordinal) for ordinal in (far, 0, 1, 0, far, 1)
    ][3:]
    other = ReasoningGymTask((ADDITION,), 1, Split.TRAIN)
    assert [first.prompt(ordinal) for ordinal in range(8)] != [other.prompt(ordinal) for ordinal in range(8)]


def test_datasets_are_mixed_by_weight() -> None:
    datasets = (
        ADDITION.model_copy(update={"weight": 3.0}),
        ReasoningGymDataset(name="gcd"),
    )
    task = ReasoningGymTask(datasets, 0, Split.TRAIN)
    drawn = [task.prompt(ordinal).metadata["source_dataset"] for ordinal in range(400)]
    assert task.name == "chain_sum+gcd"
    assert 260 < drawn.count("chain_sum") < 340
    assert drawn.count("gcd") == 400 - drawn.count("chain_sum")


@pytest.mark.parametrize("dataset", ["chain_sum", "gcd", "word_ladder", "countdown"])
def test_a_right_answer_is_worth_more_than_a_wrong_one(dataset: str) -> None:
    described = ReasoningGymDataset(name=dataset)
    prompt = open_task(settings(described), 0, Split.TRAIN).prompt(0)
    verify = task_verifier(settings(described))
    assert verify(ended(f"So <answer>{prompt.answer}</answer>"), prompt) == 1.0
    assert verify(ended("So <answer>nonsense</answer>"), prompt) <= 0.01  # which countdown gives to any answer
    assert verify(ended(f"So {prompt.answer}"), prompt) == 0.0  # nothing to judge: no tags


def test_the_last_capture_of_a_pattern_of_ones_own_is_judged() -> None:
    last_number = settings(ADDITION, pattern=r"-?\d+")
    prompt = Prompt("p", "3 + 4 =", "7", {"source_dataset": "chain_sum"})
    verify = task_verifier(last_number)
    assert verify(ended("3 + 4 = 7."), prompt) == 1.0
    assert verify(ended("7 is 3 + 4"), prompt) == 0.0
    assert verify(ended("3 + 4 = 07"), prompt) == 1.0  # as the library sees it


def test_an_answer_that_the_library_stumbles_over_is_worth_nothing() -> None:
    factors = ReasoningGymDataset(name="prime_factorization")
    prompt = open_task(settings(factors), 0, Split.TRAIN).prompt(0)
    verify = task_verifier(settings(factors))
    assert verify(ended("<answer>abc</answer>"), prompt) == 0.0
    assert verify(ended(f"<answer>{prompt.answer}</answer>"), prompt) == 1.0


def test_items_written_to_a_file_are_judged_as_the_library_judges_them(tmp_path: Path) -> None:
    made = open_task(settings(ReasoningGymDataset(name="countdown")), 0, Split.TRAIN).prompt(0)
    file = tmp_path / "countdown.jsonl"
    file.write_text(json.dumps({"prompt": made.text, "answer": made.answer, "metadata": made.metadata}) + "\n")
    jsonl = TaskSettings(name="jsonl", file=file, verifier="reasoning_gym")
    prompt = open_task(jsonl, 0, Split.TRAIN).prompt(0)
    verify = task_verifier(jsonl)
    assert verify(ended(f"<answer>{made.answer}</answer>"), prompt) == 1.0
    assert 0.0 < verify(ended("<answer>1 + 1</answer>"), prompt) < 0.1  # the library likes the form of it


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [({}, "needs the library's own metadata"), ({"source_dataset": "chain_sun"}, "chain_sum")],
)
def test_a_file_without_the_librarys_metadata_is_refused(
    tmp_path: Path, metadata: dict[str, str], complaint: str
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"prompt": "a", "answer": "b", "metadata": metadata}) + "\n")
    with pytest.raises(TaskError, match=complaint):
        open_task(TaskSettings(name="jsonl", file=file, verifier="reasoning_gym"), 0, Split.TRAIN)


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        ({"name": "chainsum"}, "did you mean chain_sum"),
        ({"name": "chain_sum", "parameters": {"max_term": 2}}, "did you mean max_terms"),
        ({"name": "chain_sum", "parameters": {"max_terms": 0}}, "max_terms must be >= min_terms"),
        ({"name": "count_bits", "parameters": {"min_n": 5, "max_n": 5}}, "too few"),
    ],
)
def test_a_wrong_dataset_or_parameter_is_refused_with_what_would_be_right(
    dataset: dict[str, object], complaint: str
) -> None:
    described = ReasoningGymDataset.model_validate(dataset)
    with pytest.raises(TaskError, match=complaint):
        [open_task(settings(described), 0, split) for split in Split]


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"name": "reasoning_gym"}, "collector.task.datasets"),
        ({"name": "sort", "verifier": "reasoning_gym"}, "metadata"),
        ({"name": "reasoning_gym", "datasets": [{"name": "gcd", "parameters": {"seed": 1}}]}, "run.seed"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(task: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TaskSettings.model_validate(task)
