"""Episodes of several turns sampled by vLLM in FP8, new weights coming in mid-episode, against a rescoring by vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from ais.collector.environments.protocol import PolicyTurn, Prompt
from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Answers
from ais.collector.exercise import Exercise
from ais.collector.judging.hosts import Host, Told
from ais.collector.replicas.generation import GenerationClient
from ais.contracts.model_identity import ModelIdentity
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from tests.support.replicas.vllm_replica import VllmReplica, demo_snapshot, shaken
from tests.support.turns.talking import call, exercise, talker

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]  # the first one starts vLLM

TURNS, LAST_OF_THE_OLD = 6, 2
SAMPLES = 4


@asynccontextmanager
async def served(engine: Any) -> AsyncIterator[GenerationClient]:
    """A connection to the engine by gRPC."""
    identity = ReplicaIdentity("replica", "run", ModelIdentity("blake3:model", "blake3:tokenizer"))
    service = GenerationService(engine, identity, RolloutMetrics(CollectorRegistry()))
    async with serve_generation(service, "127.0.0.1", 0, ServerLimits()) as server:
        client = GenerationClient(f"127.0.0.1:{server.port}")
        try:
            yield client
        finally:
            await client.close()


class Between:
    """Has the replica take new weights when all episodes have had so many turns, and the environment answers then."""

    def __init__(self, host: Host, vllm_replica: VllmReplica, payload: bytes) -> None:
        self.settings, self.begin = host.settings, host.begin
        self._host, self._replica, self._payload = host, vllm_replica, payload
        self._there = asyncio.Barrier(SAMPLES)

    async def answer(self, place: Any, prompt: Prompt, turn: PolicyTurn) -> Told:
        if turn.number == LAST_OF_THE_OLD:
            async with self._there as first:
                if first == 0:
                    assert (await self._replica.push(self._payload)).status_code == 200
            await self._there.wait()
        return await self._host.answer(place, prompt, turn)


async def played(made: Exercise, vllm_replica: VllmReplica, payload: bytes) -> Answers:
    made.hosts["sort6"] = Between(made.hosts["sort6"], vllm_replica, payload)  # type: ignore[index]
    async with served(vllm_replica.engine) as client:
        return await answers(made, made.prompt(0), client, call(SAMPLES))


async def test_across_an_update_each_turn_has_the_log_probs_of_its_version_over_the_whole_token_sequence(
    vllm_replica: VllmReplica,
) -> None:
    old, new = demo_snapshot(), demo_snapshot(shaken(3, share=0.3))
    assert (await vllm_replica.push(old)).status_code == 200
    version = vllm_replica.engine.describe().version
    async with exercise(talker(last=TURNS)) as made:
        found = await played(made, vllm_replica, new)
    whole = [[*found.prompt_token_ids, *one.text_token_ids.tolist()] for one in found.trajectories]
    by_version = {version + 1: await vllm_replica.score(whole)}
    assert (await vllm_replica.push(old)).status_code == 200
    by_version[version] = await vllm_replica.score(whole)
    for number, trajectory in enumerate(found.trajectories):
        assert len(trajectory.turns) == TURNS
        assert [span.version for span in trajectory.spans] == [version, version + 1]
        assert trajectory.spans[0].end == sum(turn.tokens for turn in trajectory.turns[: LAST_OF_THE_OLD + 1])
        begin = len(found.prompt_token_ids) - 1
        again, other = (
            np.concatenate(
                [by_version[one][number][begin:][trajectory.sampled][span.begin : span.end]
                 for span, one in zip(trajectory.spans, versions, strict=True)]
            )
            for versions in ((version, version + 1), (version + 1, version))
        )  # fmt: skip
        np.testing.assert_allclose(trajectory.behaviour_logprobs, again, atol=5e-3)
        assert np.abs(other - trajectory.behaviour_logprobs).mean() > 0.05, "the two versions cannot be told apart"
