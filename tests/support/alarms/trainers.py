"""Real trainers in this process, each on a run of its own, and groups for them whose faults a test chooses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from redis.asyncio import Redis
from transformers import PreTrainedModel, Qwen3ForCausalLM

from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory, encode_group
from ais.runtime.process import UnavailableError
from ais.runtime.tasks import end_tasks
from ais.trainer.learning.learner import Learner
from ais.trainer.policy.policy import Policy, TokenScores
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from tests.support.access import tokens
from tests.support.collector_stand_in import StandInCollector
from tests.support.trainer_groups import make_group

PAUSE_SECONDS = 0.5
"""Between two batches: several trainers share one process, and rules look at seconds."""
DIFFERENT = 12
"""Groups that come again and again under other names: the policy's own log-probs are computed once."""
NAN, CERTAIN = "nan", "certain"
"""Tasks of groups on which the policy's numbers are not finite, and on which it is certain."""


@dataclass
class Sampler:
    """What samples a trainer's groups: at first in order. The test changes it while the trainer trains."""

    noise: float = 0.1
    """Standard deviation of the log-probs about the policy's own, nats: the mismatch."""
    shift: float = 0.0
    """Added to each log-prob, nats: another policy."""
    rewards: Sequence[float] = (1.0, 1.0, 1.0, 0.6)
    finish: FinishReason = FinishReason.STOP
    task: str = "test"
    halted: bool = False
    """Only the first group of a batch comes."""


@dataclass
class Fed:
    """A trainer and what it is fed by."""

    settings: Settings
    sampler: Sampler
    queue: TrajectoryQueue


class _Collector(StandInCollector):
    """Publishes, at a pace, groups whose log-probs are the policy's own but for what the sampler adds."""

    def __init__(self, redis: Redis, fed: Fed) -> None:
        super().__init__(redis, fed.settings.run)
        self._sampler = fed.sampler
        self._model = fed.settings.run.model

    async def _publish_admitted(self) -> None:
        await asyncio.sleep(PAUSE_SECONDS)
        await super()._publish_admitted()

    async def publish(self, ordinal: int) -> None:
        if self._sampler.halted and ordinal % self._run.groups_per_batch:
            return
        await self._queue.publish(ordinal, encode_group(self._sampled(ordinal)))

    def _sampled(self, ordinal: int) -> ScoredGroup:
        sampler, random = self._sampler, np.random.default_rng(ordinal)
        group, own = owned(self._model, ordinal % DIFFERENT)

        def sampled(one: Trajectory, logprobs: np.ndarray) -> Trajectory:
            noisy = logprobs + sampler.shift + sampler.noise * random.standard_normal(len(logprobs))
            return replace(
                one,
                group_id=f"group-{ordinal}",
                trajectory_id=f"group-{ordinal}/{one.sample_index}",
                spans=(PolicySpan(self._version, 0, len(logprobs)),),
                behaviour_logprobs=np.minimum(noisy, 0.0).astype(np.float32),
                finish_reason=sampler.finish,
            )

        return replace(
            group,
            group_id=f"group-{ordinal}",
            ordinal=ordinal,
            trajectories=tuple(map(sampled, group.trajectories, own)),
            rewards=tuple(sampler.rewards),
            task=sampler.task,
        )


@cache
def owned(directory: Path, number: int) -> tuple[ScoredGroup, list[np.ndarray]]:
    """A group, and the log-probs that the policy in `directory` gives the tokens of each response."""
    group, model = make_group(number), loaded(directory)
    return group, [logprobs(model, group.prompt_token_ids, one.token_ids) for one in group.trajectories]


@cache
def loaded(directory: Path) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(directory)


def logprobs(model: Qwen3ForCausalLM, prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The policy's log-probs of the response's tokens, float32 [R]."""
    tokens = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0, len(prompt) - 1 : -1].float()
    own = torch.log_softmax(logits, -1).gather(1, tokens[len(prompt) :, None])[:, 0]
    return np.asarray(own.numpy())


@asynccontextmanager
async def fed(
    redis: Redis, url: str, name: str, directory: Path, model: Path, port: int, **sections: Mapping[str, Any]
) -> AsyncIterator[Fed]:
    """A trainer of the run `name` that listens on `port`; it learns so slowly that its policy stays what it is.

    `sections`: settings beyond that. One that ends with an error has ended, and the test goes on.
    """
    trainer = dict(sections.pop("trainer", {}))
    settings = Settings.model_validate(
        {
            "run": {
                "name": name, "directory": directory, "model": model, "steps": 100_000, "groups_per_batch": 3,
                "samples_per_group": 4, "max_staleness": 0,
            },
            "redis": {"url": url},
            "security": {"tokens": tokens()},
            "trainer": {
                "http_port": port, "stall_seconds": 4.0, "checkpoints": {"every_steps": 100_000}, "samples_per_step": 0,
                "probe": {"sequences": 0}, "push": {"deltas": False},
                "untrusted_batches": 1000, "optimizer": {"learning_rate": 1e-8}, **trainer,
            },
            **sections,
        }
    )  # fmt: skip
    one = Fed(settings, Sampler(), TrajectoryQueue(redis, Keys(name)))
    collector = _Collector(redis, one)
    stop = asyncio.Event()
    working = [asyncio.create_task(_trained(settings, stop)), asyncio.create_task(collector.run())]
    try:
        yield one
    finally:
        stop.set()
        await asyncio.wait(working[:1], timeout=10)
        await end_tasks(*working)


async def _trained(settings: Settings, stop: asyncio.Event) -> None:
    with suppress(UnavailableError):
        await serve_trainer(settings, stop)


@contextmanager
def policies_that_break() -> Iterator[None]:
    """Policies whose numbers are not finite, or whose entropy is lost, on batches of groups with these tasks.

    transformers takes the tying of weights away while it loads, for all threads; two that load at once may leave it so.
    """
    step, score, now = Learner.step, Policy.score, threading.local()

    def marked(self: Learner, groups: Sequence[ScoredGroup], *arguments: Any) -> Any:
        now.tasks = {group.task for group in groups}
        return step(self, groups, *arguments)

    def broken(self: Policy, *arguments: Any) -> TokenScores:
        scores = score(self, *arguments)
        if NAN in now.tasks:
            return replace(scores, logprobs=scores.logprobs * torch.nan)
        return replace(scores, entropy=scores.entropy * 0.01) if CERTAIN in now.tasks else scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "tie_weights", PreTrainedModel.tie_weights)  # is put back in any case
        patch.setattr(Learner, "step", marked)
        patch.setattr(Policy, "score", broken)
        yield
