"""Scores and the schedule of evaluation, against closed forms and enumeration."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ais.collector.evaluating.questions import Question, questions_of, sampling_of
from ais.collector.evaluating.schedule import due
from ais.collector.evaluating.statistics import Answered, estimate, pass_at, score_of
from ais.collector.prompts.prompts import Split
from ais.collector.settings import MixtureSource, TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.evaluation.board import LONGEST_RESULT
from ais.contracts.evaluation.results import SourceScore
from ais.contracts.evaluation.settings import EvaluationSettings, ks_of
from ais.contracts.reward_components import MOST_COMPONENTS
from ais.contracts.sampling import SamplingParameters
from tests.support.records import evaluation_result


@pytest.mark.parametrize("samples", range(1, 7))
def test_pass_at_k_is_the_share_of_all_choices_of_k_with_one_that_passed(samples: int) -> None:
    for passed in range(samples + 1):
        outcomes = [index < passed for index in range(samples)]
        for k in range(1, samples + 1):
            choices = list(combinations(outcomes, k))
            assert pass_at(k, samples, passed) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_the_k_are_powers_of_two_and_all(samples: int, ks: list[int]) -> None:
    assert ks_of(samples) == ks


def test_an_interval_is_of_prompts_and_not_of_responses() -> None:
    prompts = [Answered((1.0, 1.0), (3, 5), 0), Answered((0.0, 1.0), (2, 2), 1), Answered((0.0, 0.0), (4, 4), 2)]
    score = score_of("sums", prompts, unanswered=1, pass_reward=1.0)
    assert score.reward.mean == pytest.approx(0.5)
    assert score.reward.interval == pytest.approx(1.96 * 0.5 / math.sqrt(3))
    assert score.passed[1].mean == pytest.approx(0.5)
    assert score.passed[2].mean == pytest.approx(2 / 3)
    assert (score.prompts, score.samples, score.unanswered) == (3, 2, 1)
    assert score.response_length_mean == pytest.approx(20 / 6)
    assert score.truncated_share == pytest.approx(0.5)


def test_components_are_averaged_over_the_prompts_that_have_them() -> None:
    parts: tuple[dict[str, tuple[float, ...]], ...] = ({"a": (1.0, 0.0)}, {"a": (1.0, 1.0), "b": (-0.5, -0.5)})
    prompts = [Answered((1.0, 0.0), (3, 5), 0, components) for components in parts]
    score = score_of("sums", prompts, unanswered=0, pass_reward=1.0)
    assert {name: one.mean for name, one in score.components.items()} == {"a": 0.75, "b": -0.5}
    assert score.components["a"].interval == pytest.approx(1.96 * math.sqrt(0.125) / math.sqrt(2))
    assert score.components["b"].interval == 0.0


def test_a_function_that_invents_names_without_end_makes_no_result_too_large() -> None:
    prompts = [Answered((0.0,), (1,), 0, {f"own.{n}-{m}": (0.0,) for m in range(32)}) for n in range(64)]
    score = score_of("sums", prompts, unanswered=0, pass_reward=1.0)
    assert len(score.components) == MOST_COMPONENTS
    assert len(score.model_dump_json()) < LONGEST_RESULT


def test_a_result_of_an_earlier_release_has_no_components() -> None:
    (score,) = evaluation_result(2, sums=0.5).sources
    assert SourceScore.model_validate(score.model_dump(exclude={"components"})).components == {}


def test_one_value_has_no_interval() -> None:
    assert estimate([0.25]).interval == 0.0


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 500), st.sets(st.integers(0, 500)))
def test_what_is_due_is_the_newest_multiple_that_is_not_done(
    every: int, version: int, last: int, done: set[int]
) -> None:
    step = due(every, version, last, done)
    newest = max(range(0, version + 1, every))
    assert step == (newest if newest not in done and newest < last else None)


@pytest.mark.parametrize(("every", "version"), [(0, 10), (5, -1)])
def test_nothing_is_due_where_nothing_is_asked_or_known(every: int, version: int) -> None:
    assert due(every, version, 100, set()) is None


def test_every_source_of_a_mixture_is_asked_the_same_questions_for_every_policy() -> None:
    sources = (MixtureSource(digits=4), MixtureSource(digits=6, weight=0.0))
    task = open_task(TaskSettings(name="mixture", sources=sources), 0, Split.HELD_OUT)
    questions = questions_of(task, 3)
    assert [question.name for question in questions] == [f"sort{n}-{i}" for n in (4, 6) for i in range(3)]
    drawn = {sampling_of(SamplingParameters(), 0.5, 7, question).seed for question in questions}
    again = {sampling_of(SamplingParameters(), 0.5, 7, Question(q.source, q.ordinal)).seed for q in questions}
    assert drawn == again
    assert len(drawn) == 6
    assert sampling_of(SamplingParameters(temperature=1.0), 0.5, 7, questions[0]).temperature == 0.5
    assert sampling_of(SamplingParameters(temperature=0.7), None, 7, questions[0]).temperature == 0.7


@pytest.mark.parametrize("metric", ["pass@3", "pass@8", "reward", "sums/pass@8"])
def test_a_metric_that_is_not_measured_is_refused(metric: str) -> None:
    with pytest.raises(ValidationError, match="metric"):
        EvaluationSettings(samples=4, metric=metric)


@pytest.mark.parametrize("metric", ["pass@1", "pass@4", "reward_mean", "a/b/pass@2", "sums/reward_mean"])
def test_a_metric_that_is_measured_is_taken(metric: str) -> None:
    assert EvaluationSettings(samples=4, metric=metric).metric == metric
