"""Tasks with written-out work: every step follows from the one before, and splits share no problem."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from pydantic import ValidationError

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.settings import TaskSettings
from ais.collector.tasks.demonstrations import noise, with_mistakes
from ais.collector.tasks.task import open_task
from ais.collector.tasks.worked.sort_swaps import rows_after_rounds
from tests.support.judges import cut_off, ended, task_verifier

SWAPS = TaskSettings(name="sort_swaps", digits=14)
SUMS = TaskSettings(name="sum_chain", terms=30, digits=6)
BOTH = pytest.mark.parametrize("settings", [SWAPS, SUMS], ids=lambda task: task.name)


def prompts(settings: TaskSettings, count: int = 50, split: Split = Split.TRAIN) -> list[Prompt]:
    source = open_task(settings, 0, split)
    return [source.prompt(ordinal) for ordinal in range(count)]


def test_each_round_of_a_sort_orders_its_pairs_of_neighbours_and_the_last_row_is_sorted() -> None:
    for prompt in prompts(SWAPS):
        rows = [prompt.text.removesuffix("="), *re.split("[,;]", prompt.answer)]
        for count, (before, after) in enumerate(pairwise(rows)):
            for left in range(count % 2, 13, 2):
                assert after[left : left + 2] == "".join(sorted(before[left : left + 2]))
        assert rows[-1] == "".join(sorted(rows[0]))


def test_as_many_rounds_as_digits_sort_the_worst_row() -> None:
    """A network of comparisons that sorts every row of zeros and ones sorts every row."""
    for length in (1, 2, 7, 10):
        for number in range(2**length):
            assert rows_after_rounds(f"{number:0{length}b}")[-1] == "".join(sorted(f"{number:0{length}b}"))


def test_each_line_of_a_chain_is_the_sum_of_the_two_before_it() -> None:
    for prompt in prompts(SUMS):
        numbers = [int(text[::-1]) for text in re.split("[+=,]", prompt.text + prompt.answer)]
        assert len(numbers) == 32
        for first, second, third in zip(numbers, numbers[1:], numbers[2:], strict=False):
            assert third == (first + second) % 10**6


@BOTH
def test_prompt_and_answer_have_the_tokens_that_the_settings_count(settings: TaskSettings) -> None:
    for prompt in prompts(settings):
        assert len(f"^{prompt.text}{prompt.answer}$") == settings.work_tokens


@pytest.mark.parametrize("settings", [SWAPS.model_copy(update={"digits": 4}), SUMS], ids=lambda task: task.name)
def test_no_problem_is_in_two_splits_whatever_the_seed(settings: TaskSettings) -> None:
    texts = {
        split: {open_task(settings, seed, split).prompt(ordinal).text for seed in (0, 1) for ordinal in range(200)}
        for split in Split
    }
    assert not texts[Split.TRAIN] & texts[Split.HELD_OUT]
    assert not texts[Split.TRAIN] & texts[Split.DEMONSTRATION]
    assert not texts[Split.HELD_OUT] & texts[Split.DEMONSTRATION]


@BOTH
def test_a_problem_depends_on_seed_split_and_ordinal_alone(settings: TaskSettings) -> None:
    source = open_task(settings, 0, Split.TRAIN)
    assert source.prompt(7) == open_task(settings, 0, Split.TRAIN).prompt(7) != source.prompt(8)
    assert open_task(settings, 1, Split.TRAIN).prompt(7) != source.prompt(7)


@BOTH
def test_the_last_step_is_judged_or_by_setting_the_whole_work(settings: TaskSettings) -> None:
    (prompt,) = prompts(settings, count=1)
    by_last = task_verifier(settings)
    by_all = task_verifier(settings.model_copy(update={"verifier": "exact_match"}))
    last = re.split("[,;]", prompt.answer)[-1]
    wrong_end = prompt.answer[:-1] + ("1" if prompt.answer[-1] != "1" else "2")
    for response, end, all_of_it in ((prompt.answer, 1.0, 1.0), (f"0,{last}", 1.0, 0.0), (wrong_end, 0.0, 0.0)):
        assert by_last(ended(response), prompt) == end
        assert by_all(ended(response), prompt) == all_of_it
    for verify in (by_last, by_all):
        assert verify(cut_off(prompt.answer), prompt) == 0.0
        assert verify(ended(""), prompt) == 0.0
        assert verify(ended(prompt.answer + ","), prompt) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "sort_swaps", "digits": 3},
        {"name": "sort_swaps", "digits": 45},
        {"name": "sum_chain", "terms": 200, "digits": 12},
        {"name": "sum_chain", "verifier": "reasoning_gym"},
    ],
)
def test_settings_that_no_task_can_keep_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="digits|tokens|metadata"):
        TaskSettings.model_validate(wrong)


@BOTH
def test_demonstrations_are_wrong_so_often_that_a_perfect_imitator_is_right_a_little_more_than_wanted(
    settings: TaskSettings,
) -> None:
    share, generator = noise(open_task(settings, 0, Split.DEMONSTRATION), accuracy=0.3), random.Random(0)
    demonstrations = prompts(settings, 1000, Split.DEMONSTRATION)
    whole = [with_mistakes(prompt.answer, share, generator) == prompt.answer for prompt in demonstrations]
    assert sum(whole) / len(whole) == pytest.approx(0.3**0.5, abs=0.06)
