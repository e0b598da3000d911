"""A learner that goes on from what was saved computes the same numbers, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.learner import Learner, StepOutcome
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.policy.policy import Policy
from ais_core.settings import CorrectionSettings, MixingSettings
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import trainer_settings

BATCHES = [[make_group(ordinal, seed=batch) for ordinal in range(3)] for batch in range(6)]
SAME_BATCH = CorrectionSettings()
PREVIOUS_BATCH = CorrectionSettings(mixing=MixingSettings(evaluation="previous_batch"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def new_learner(correction: CorrectionSettings = SAME_BATCH, seed: int = 0) -> Learner:
    settings = trainer_settings(schedule="cosine", warmup_steps=2, weight_decay=0.1, tokens_per_microbatch=40)
    return Learner(Policy(demo_model(seed=seed)), RunSettings(steps=6), settings, correction)


def train(learner: Learner, first: int, last: int) -> list[StepOutcome]:
    return [learner.step(groups, PhaseClock()) for groups in BATCHES[first:last]]


@pytest.mark.parametrize("correction", [SAME_BATCH, PREVIOUS_BATCH])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_resuming_equals_going_on(tmp_path: Path, correction: CorrectionSettings, step: int) -> None:
    calm = new_learner(correction)
    expected = train(calm, 0, 6)

    first = new_learner(correction)
    train(first, 0, step)
    memory, saving = first.memory, first.save(tmp_path / "state")
    saving.result()
    second = new_learner(correction, seed=1)
    second.resume(memory, tmp_path / "state")
    resumed = train(second, step, 6)
    assert [outcome.figures for outcome in resumed] == [outcome.figures for outcome in expected[step:]]
    assert [outcome.snapshot.identity for outcome in resumed] == [
        outcome.snapshot.identity for outcome in expected[step:]
    ]


def test_a_state_of_another_release_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learner = new_learner(PREVIOUS_BATCH)
    train(learner, 0, 2)
    memory, saving = learner.memory, learner.save(tmp_path / "state")
    saving.result()
    assert memory.correction is not None
    older = replace(memory, correction={"sums": memory.correction["sums"][:-3]})
    resumed = new_learner(PREVIOUS_BATCH)
    resumed.resume(older, tmp_path / "state")
    assert "of another release" in caplog.text
    (outcome,) = train(resumed, 2, 3)
    assert outcome.figures.skipped_updates == 0


def test_what_is_saved_is_what_was_there_when_saving_began(tmp_path: Path) -> None:
    learner = new_learner()
    train(learner, 0, 2)
    memory, saving = learner.memory, learner.save(tmp_path / "state")
    expected = train(learner, 2, 4)  # while it is written
    saving.result()
    resumed = new_learner(seed=1)
    resumed.resume(memory, tmp_path / "state")
    assert [outcome.snapshot.identity for outcome in train(resumed, 2, 4)] == [
        outcome.snapshot.identity for outcome in expected
    ]


def test_an_optimizer_that_made_no_update_yet_is_still_fresh_after_resuming(tmp_path: Path) -> None:
    learner = new_learner()
    learner.save(tmp_path / "state").result()
    resumed = new_learner(seed=1)
    train(resumed, 0, 1)
    resumed.resume(learner.memory, tmp_path / "state")
    assert train(resumed, 0, 2)[-1].snapshot.identity == train(learner, 0, 2)[-1].snapshot.identity


def test_the_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    learner = new_learner()
    torch.manual_seed(5)
    learner.save(tmp_path / "state").result()
    expected = torch.rand(3)
    learner.resume(learner.memory, tmp_path / "state")
    assert torch.equal(torch.rand(3), expected)
