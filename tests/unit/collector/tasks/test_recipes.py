"""A recipe reads rows in its benchmark's format, asks as the field does, and judges right and wrong answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.rewards.opening import open_verifier
from ais.collector.rewards.response import Response
from ais.collector.settings import TaskSettings
from ais.collector.settings.recipes import RECIPES
from ais.collector.tasks.task import open_task
from ais.settings import load, to_toml


@dataclass(frozen=True)
class Case:
    """A row that we wrote in a benchmark's format."""

    row: dict[str, Any]
    asks: str
    answer: str
    right: str
    wrong: str


CASES = {
    "gsm8k": Case(
        {"question": "Ann has 700 pens and buys 380.", "answer": "She has 700+380=<<700+380=1080>>1080.\n#### 1,080"},
        'Ann has 700 pens and buys 380. Let\'s think step by step and output the final answer after "####".',
        "1,080",
        "That makes 1080.\n#### 1080",
        "#### 1081",
    ),
    "math500": Case(
        {"problem": "Add $\\frac14$ and $\\frac12$.", "solution": "...", "answer": "\\frac{3}{4}", "level": 1},
        "Add $\\frac14$ and $\\frac12$.\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "\\frac{3}{4}",
        "It is \\boxed{0.75}.",
        "It is \\boxed{\\frac{4}{3}}.",
    ),
    "aime": Case(
        {"id": 60, "problem": "What is 9 + 24?", "answer": "033", "year": "2024"},
        "What is 9 + 24?\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "033",
        "So \\boxed{33}.",
        "So \\boxed{330}, not 33.",
    ),
    "amc": Case(
        {"id": 0, "problem": "What is 71 + 71?", "answer": 142.0, "url": "-"},
        "What is 71 + 71?\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "142.0",
        "\\boxed{142}",
        "\\boxed{143}",
    ),
    "countdown": Case(
        {"target": 8, "nums": [4, 6, 2]},
        "Using the numbers [4, 6, 2], create an equation that equals 8. You can use basic arithmetic",
        "8",
        "<think>4 + 6 = 10</think> <answer> 4 + 6 - 2 </answer>",
        "<answer> 4 + 4 </answer>",
    ),
    "sudoku": Case(
        {"puzzle": "1034341221434321", "solution": "1234341221434321"},
        "Solve this Sudoku.",
        "1234341221434321",
        "<answer>1234\n3412\n2143\n4321</answer>",
        "<answer>1134341221434321</answer>",
    ),
}


def task_of(name: str, directory: Path) -> TaskSettings:
    rows = [CASES[name].row]
    file = directory / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskSettings.model_validate({"recipe": name, "name": "jsonl", "file": file, "held_out_fraction": 1.0})


def reward(task: TaskSettings, prompt: Prompt, text: str) -> float:
    scores = [(one.weight, open_verifier(one)) for one in task.effective_reward]
    return sum(weight * float(str(verify(Response(text, most_tokens=99), prompt))) for weight, verify in scores)


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_asks_reads_the_answer_and_judges(name: str, tmp_path: Path) -> None:
    if name in ("math500", "aime", "amc"):
        pytest.importorskip("math_verify", reason="needs the extra rewards")
    case, task = CASES[name], task_of(name, tmp_path)
    prompt = open_task(task, 0, Split.HELD_OUT).prompt(0)
    assert prompt.text.startswith(case.asks)
    assert prompt.answer == case.answer
    assert reward(task, prompt, case.right) == 1.0
    assert reward(task, prompt, case.wrong) == 0.0
    assert reward(task, prompt, "I do not know.") == 0.0


def test_every_recipe_has_a_case() -> None:
    assert set(CASES) == set(RECIPES)


def test_a_recipe_names_its_dataset_unless_the_settings_name_a_source(tmp_path: Path) -> None:
    alone = TaskSettings.model_validate({"recipe": "gsm8k"})
    assert (alone.name, alone.dataset, alone.held_out_split) == ("huggingface", "openai/gsm8k", "test")
    assert alone.effective_label == "gsm8k"
    own = task_of("gsm8k", tmp_path)
    assert (own.dataset, own.held_out_split) == (None, None)


def test_what_the_settings_say_wins_over_the_recipe(tmp_path: Path) -> None:
    given = {
        "recipe": "countdown",
        "verifier": "exact_match",
        "columns": {"answer": "goal", "metadata": {"numbers": "n"}},
    }
    task = TaskSettings.model_validate(given)
    assert [one.verifier for one in task.effective_reward] == ["exact_match"]
    assert task.columns.answer == "goal"
    assert task.columns.metadata == {"numbers": "n"}
    assert (task.columns.template or "").startswith("Using the numbers")


def test_a_recipe_may_be_one_source_of_a_mixture_and_its_saved_settings_read_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[collector.task]\nname = "mixture"\n[[collector.task.sources]]\nrecipe = "gsm8k"\n'
        '[[collector.task.sources]]\nrecipe = "math500"\nweight = 0\n'
    )
    settings = load(file)
    first, second = settings.collector.task.sources
    assert (first.effective_label, second.effective_label, second.held_out_fraction) == ("gsm8k", "math500", 1.0)
    saved = tmp_path / "saved.toml"
    saved.write_text(to_toml(settings))
    assert load(saved).collector.task == settings.collector.task


def test_a_recipe_that_does_not_exist_and_one_without_a_dataset_are_refused() -> None:
    with pytest.raises(ValidationError, match="recipe"):
        TaskSettings.model_validate({"recipe": "gsm"})
    with pytest.raises(ValidationError, match="the recipe sudoku has no dataset of its own"):
        TaskSettings.model_validate({"recipe": "sudoku"})
