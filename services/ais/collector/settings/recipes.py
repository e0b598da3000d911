"""What is customary for a benchmark: its dataset, its columns, the prompt that the field uses, and the verifier.

A recipe fills in what the settings leave open. Sources of the prompts: GSM8K's is verl's, with the answer behind `####`
as in the dataset itself (Cobbe et al., 2021); MATH, AIME and AMC use the sentence of Qwen's and DeepSeek's model cards;
Countdown's is TinyZero's. Sudoku's is ours, for a puzzle and a solution written digit by digit, as in d1 (Zhao et al.,
2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RecipeName = Literal["gsm8k", "math500", "aime", "amc", "countdown", "sudoku"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a source."""

    columns: Mapping[str, Any]
    reward: tuple[Mapping[str, Any], ...]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """Where the prompts come from when the settings name neither a source nor a dataset."""


BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
_EVALUATED_ONLY = {"held_out_fraction": 1.0}

RECIPES: Mapping[RecipeName, Recipe] = {
    "gsm8k": Recipe(
        columns={
            "template": '{question} Let\'s think step by step and output the final answer after "####".',
            "answer": "answer",
            "answer_pattern": r"####\s*(\S+)",
        },
        reward=({"verifier": "numeric", "extract": "hash"},),
        dataset={
            "name": "huggingface",
            "dataset": "openai/gsm8k",
            "dataset_config": "main",
            "split": "train",
            "held_out_split": "test",
        },
    ),
    "math500": Recipe(
        columns={"template": BOXED, "answer": "answer"},
        reward=({"verifier": "math_verify"},),
        dataset={"name": "huggingface", "dataset": "HuggingFaceH4/MATH-500", "split": "test", **_EVALUATED_ONLY},
    ),
    "aime": Recipe(
        columns={"template": BOXED, "answer": "answer"},
        reward=({"verifier": "math_verify"},),
        dataset={"name": "huggingface", "dataset": "HuggingFaceH4/aime_2024", "split": "train", **_EVALUATED_ONLY},
    ),
    "amc": Recipe(
        columns={"template": BOXED, "answer": "answer"},
        reward=({"verifier": "math_verify"},),
        dataset={"name": "huggingface", "dataset": "AI-MO/aimo-validation-amc", "split": "train", **_EVALUATED_ONLY},
    ),
    "countdown": Recipe(
        columns={
            "template": (
                "Using the numbers {nums}, create an equation that equals {target}. You can use basic arithmetic "
                "operations (+, -, *, /) and each number can only be used once. Show your work in <think> </think> "
                "tags. And return the final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 "
                "</answer>."
            ),
            "answer": "target",
            "metadata": {"numbers": "nums", "target": "target"},
        },
        reward=({"verifier": "countdown"},),
        dataset={"name": "huggingface", "dataset": "Jiayi-Pan/Countdown-Tasks-3to4", "split": "train"},
    ),
    "sudoku": Recipe(
        columns={
            "template": (
                "Solve this Sudoku. It is written row by row, from left to right and from top to bottom, and 0 is an "
                "empty cell. Fill every empty cell so that each row, each column and each box has every digit once.\n\n"
                "{puzzle}\n\nReason step by step. Then write the whole grid in the same way between <answer> and "
                "</answer>."
            ),
            "answer": "solution",
            "metadata": {"puzzle": "puzzle"},
        },
        reward=({"verifier": "sudoku"},),
    ),
}


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a source with what its recipe says about everything that they leave open."""
    recipe = next((recipe for name, recipe in RECIPES.items() if name == given.get("recipe")), None)
    if recipe is None:
        return dict(given)
    own_source = any(given.get(key) is not None for key in ("name", "dataset", "file"))
    own_reward = any(given.get(key) for key in ("verifier", "pattern", "reward"))
    return {
        **({} if own_source else recipe.dataset),
        **({} if own_reward else {"reward": recipe.reward}),
        **given,
        "columns": {**recipe.columns, **dict(given.get("columns") or {})},
    }
