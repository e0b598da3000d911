"""Episodes under a chat template that changes what was said, with a real FP8 replica: turns that begin anew."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ais.collector.episodes.answering import answers
from ais.collector.exercise import Ending
from ais.collector.prompts.dialogue import UnstableTemplateError
from ais.contracts.trajectory import ScoredGroup, TrajectoryBounds, decode_group, encode_group
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from tests.support.turns.replica import FP8, POLICY, VOCABULARY, Replica, rescoring, served
from tests.support.turns.talking import call, exercise, talker

STRIPPED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'][-1:] + eos_token }}{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
"""Leaves the last character of what the policy said."""


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with served() as replica:
        yield replica


@pytest.fixture
def template(tmp_path: Path) -> Path:
    file = tmp_path / "stripped.jinja"
    file.write_text(STRIPPED)
    return file


async def test_the_log_probs_of_every_turn_are_those_of_the_sequence_that_it_was_sampled_in(
    replica: Replica, template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with exercise(talker(last=4), template=template) as made:
            found = await answers(made, made.prompt(0), replica.client, call())
            tokenizer = made.tokenizer
    assert "episodes of python begin anew" in caplog.text
    assert "3 turns that were tried are read in 3 sequences" in caplog.text
    prompt = np.array(found.prompt_token_ids, np.int32)
    sent = ScoredGroup("group", 0, "p", prompt, found.trajectories, found.judged.rewards, "t", 1)
    group = decode_group(encode_group(sent), TrajectoryBounds(VOCABULARY, 0))
    policy = Policy.load(POLICY, "cpu")
    for trajectory in group.trajectories:
        assert [turn.begins_anew for turn in trajectory.turns] == [False, True, True, True]
        passages = trajectory.passages(prompt)
        said = [tokenizer.decode_response(one.text_token_ids.tolist()) for one in passages]
        read = [tokenizer.decode_response(one.prompt_token_ids.tolist()) for one in passages]
        assert read[3] == read[0] + f"{said[0][-1:]}={said[1][-1:]}=={said[2][-1:]}==="
        again = rescoring(found.prompt_token_ids, trajectory, POLICY)
        # Products of another height add in another order, which BF16 and FP8 make visible.
        assert np.abs(again - trajectory.behaviour_logprobs).max() < 0.2
        assert np.abs(again - trajectory.behaviour_logprobs).mean() < 0.01
        (microbatch,) = cut([Sample(prompt, trajectory)], 10_000)
        with torch.no_grad():
            imitated = policy.score(microbatch, FP8).logprobs.numpy()
        assert np.abs(imitated - trajectory.behaviour_logprobs).max() < 0.2
        assert np.abs(imitated - trajectory.behaviour_logprobs).mean() < 0.01
        going_on = tuple(replace(turn, begins_anew=False) for turn in trajectory.turns)
        misread = rescoring(found.prompt_token_ids, replace(trajectory, turns=going_on), POLICY)
        assert np.abs(misread - trajectory.behaviour_logprobs).mean() > 0.1


async def test_what_is_read_again_counts_against_the_budget_of_tokens(replica: Replica, template: Path) -> None:
    endings: list[tuple[Ending, int, int]] = []
    async with exercise(talker(last=8) | {"tokens": 22}, endings, template=template) as made:
        found = await answers(made, made.prompt(0), replica.client, call(samples=1))
    (trajectory,) = found.trajectories
    counted = [len(turn.context_token_ids) + turn.tokens for turn in trajectory.turns]
    assert endings == [("tokens", len(counted), 0)]
    assert sum(counted[:-1]) < 22 <= sum(counted)
    assert sum(map(len, trajectory.passages(np.array(found.prompt_token_ids)))) - len(found.prompt_token_ids) == sum(
        counted
    )


async def test_it_is_refused_where_the_settings_say_so(template: Path) -> None:
    with pytest.raises(UnstableTemplateError, match=r"after turn 1.*environment.unstable_template = .begin_anew."):
        async with exercise(talker() | {"unstable_template": "refuse"}, template=template):
            raise AssertionError("it began")
