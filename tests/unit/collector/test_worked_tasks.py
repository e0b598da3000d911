"""Tasks with written-out work: every step follows from the one before, and splits share no problem."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean

import pytest
from pydantic import ValidationError

from ais.collector.prompts.prompts import Prompt, Split, TaskSource
from ais.collector.settings import TaskSettings
from ais.collector.tasks.task import open_task
from ais.collector.tasks.verifiers import open_verifier
from ais.collector.tasks.worked.column_sum import read
from ais.contracts.sampling import FinishReason

SWAPS = TaskSettings(name="sort_swaps", digits=10)
SUMS = TaskSettings(name="column_sum", terms=40, digits=3)


def source(settings: TaskSettings, split: Split = Split.TRAIN) -> TaskSource:
    return open_task(settings, 0, split)


def prompts(settings: TaskSettings, split: Split = Split.TRAIN, count: int = 50) -> list[Prompt]:
    return [source(settings, split).prompt(ordinal) for ordinal in range(count)]


def test_each_line_of_a_sort_is_one_swap_of_neighbours_out_of_order_and_the_last_is_sorted() -> None:
    for prompt in prompts(SWAPS):
        rows = [prompt.text.removesuffix("="), *prompt.answer.split(",")]
        for before, after in pairwise(rows):
            (at, right) = (place for place in range(10) if before[place] != after[place])
            assert right == at + 1
            assert before[at] > before[right]
            assert (after[at], after[right]) == (before[right], before[at])
        assert rows[-1] == "".join(sorted(rows[0]))


def test_a_sorted_row_is_answered_by_itself() -> None:
    task = TaskSettings(name="sort_swaps", digits=4)
    found = next(p for p in prompts(task, count=2000) if p.text == "".join(sorted(p.text[:-1])) + "=")
    assert found.answer == found.text[:-1]


def test_each_total_of_a_sum_is_the_one_before_and_the_next_term() -> None:
    for prompt in prompts(SUMS):
        terms = [read(term) for term in prompt.text.removesuffix("=").split("+")]
        totals = [read(total) for total in prompt.answer.split(",")]
        assert len(terms) == len(totals) == 40
        assert max(terms) < 1000
        assert totals == [sum(terms[: count + 1]) for count in range(40)]


def test_answers_have_the_length_that_the_settings_promise() -> None:
    assert {len(prompt.answer) + 1 for prompt in prompts(SUMS)} == {40 * 6}
    assert mean(len(prompt.answer) + 1 for prompt in prompts(SWAPS, count=300)) == pytest.approx(
        0.225 * 90 * 11, rel=0.1
    )


@pytest.mark.parametrize("settings", [TaskSettings(name="sort_swaps", digits=4), SUMS], ids=lambda task: task.name)
def test_no_problem_is_in_two_splits_whatever_the_seed(settings: TaskSettings) -> None:
    texts = {
        split: {open_task(settings, seed, split).prompt(ordinal).text for seed in (0, 1) for ordinal in range(200)}
        for split in Split
    }
    assert not texts[Split.TRAIN] & texts[Split.HELD_OUT]
    assert not texts[Split.TRAIN] & texts[Split.DEMONSTRATION]
    assert not texts[Split.HELD_OUT] & texts[Split.DEMONSTRATION]


@pytest.mark.parametrize("settings", [SWAPS, SUMS], ids=lambda task: task.name)
def test_a_problem_depends_on_seed_split_and_ordinal_alone(settings: TaskSettings) -> None:
    assert source(settings).prompt(7) == source(settings).prompt(7) != source(settings).prompt(8)
    assert open_task(settings, 1, Split.TRAIN).prompt(7) != source(settings).prompt(7)


@pytest.mark.parametrize("settings", [SWAPS, SUMS], ids=lambda task: task.name)
def test_the_last_step_is_judged_or_by_setting_the_whole_work(settings: TaskSettings) -> None:
    (prompt,) = prompts(settings, count=1)
    by_last = open_verifier(settings)
    by_all = open_verifier(settings.model_copy(update={"verifier": "exact_match"}))
    last = prompt.answer.rpartition(",")[2]
    wrong_end = prompt.answer[:-1] + ("1" if prompt.answer[-1] != "1" else "2")
    for response, end, all_of_it in ((prompt.answer, 1.0, 1.0), (f"0,{last}", 1.0, 0.0), (wrong_end, 0.0, 0.0)):
        assert by_last(response, prompt, FinishReason.STOP) == end
        assert by_all(response, prompt, FinishReason.STOP) == all_of_it
    for verify in (by_last, by_all):
        assert verify(prompt.answer, prompt, FinishReason.LENGTH) == 0.0
        assert verify("", prompt, FinishReason.STOP) == 0.0
        assert verify(prompt.answer + ",", prompt, FinishReason.STOP) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "sort_swaps", "digits": 3},
        {"name": "sort_swaps", "digits": 21},
        {"name": "column_sum", "digits": 16},
        {"name": "column_sum", "verifier": "reasoning_gym"},
    ],
)
def test_settings_that_no_task_can_keep_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="digits|metadata"):
        TaskSettings.model_validate(wrong)
