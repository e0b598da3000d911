"""Groups sampled by the torch engine's own batch, in this thread."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ais.collector.exercise import Exercise
from ais.collector.group_sampling import group_seed
from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import TOKEN_DTYPE, ScoredGroup, Trajectory
from ais.rollout.engine import Completion, GenerationRequest, SamplingFailedError
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.calibration import calibrated
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import rounded_weights


@dataclass(frozen=True)
class Draw:
    """What is sampled: groups of `samples` responses to the prompts of `ordinals`."""

    ordinals: range
    samples: int
    sampling: SamplingParameters
    seed: int
    """The run's. A group's own is made of it and the ordinal, as the collector does."""


class Rollouts:
    """Samples at one precision, with the policy it is given."""

    def __init__(
        self, architecture: Architecture, precision: Precision, slots: int, positions: int, device: torch.device
    ) -> None:
        """`slots`: sequences at once. `positions`: longest prompt plus response, tokens."""
        self._device = device
        self._architecture = architecture
        self._precision = precision
        self._size = (slots, min(positions, architecture.max_positions))
        self._tickets = itertools.count()
        self._batch: Batch | None = None

    @torch.inference_mode()
    def serve(self, weights: Mapping[str, torch.Tensor], version: int) -> ServedPolicy:
        """`weights`, which are BF16, quantised as the precision says. There is no probe to calibrate a cache on."""
        rounded = rounded_weights(weights, self._architecture, self._precision, self._device)
        served, _ranges = calibrated(rounded, self._architecture, self._precision)
        return ServedPolicy(served, version, "")

    async def sample(self, policy: ServedPolicy, exercise: Exercise, draw: Draw) -> list[ScoredGroup]:
        """Scored groups in the order of the ordinals. Raises SamplingFailedError where log-probs are not finite."""
        asked = [exercise.ask(ordinal) for ordinal in draw.ordinals]
        sampled = self._run(policy, [tokens for _prompt, tokens in asked], draw)
        groups = []
        for ordinal, (prompt, tokens), completions in zip(draw.ordinals, asked, sampled, strict=True):
            trajectories = tuple(self._trajectory(ordinal, one, draw.sampling) for one in completions)
            groups.append(
                ScoredGroup(
                    group_id=str(ordinal),
                    ordinal=ordinal,
                    prompt_id=prompt.prompt_id,
                    prompt_token_ids=np.asarray(tokens, dtype=TOKEN_DTYPE),
                    trajectories=trajectories,
                    rewards=(await exercise.judged(prompt, trajectories)).rewards,
                    task=prompt.source,
                    attempt=1,
                )
            )
        return groups

    @torch.inference_mode()
    def _run(self, policy: ServedPolicy, prompts: Sequence[Sequence[int]], draw: Draw) -> list[list[Completion]]:
        if self._batch is None:
            self._batch = Batch(self._architecture, self._precision, policy, *self._size)
        batch = self._batch
        batch.replace(policy)
        finished: dict[int, list[Completion]] = {}
        for ordinal, tokens in zip(draw.ordinals, prompts, strict=True):
            ticket = next(self._tickets)
            finished[ticket] = []
            request = GenerationRequest(str(ticket), tuple(tokens), draw.samples, draw.sampling, for_training=True)
            stops = draw.sampling.stop_token_ids or self._architecture.stop_token_ids
            batch.submit(Group(ticket, request, stops, seed=group_seed(draw.seed, ordinal), arrived=0.0))
        while not batch.slots.idle:
            for ended in batch.step():
                if isinstance(ended.outcome, SamplingFailedError):
                    raise ended.outcome
                finished[ended.ticket].append(ended.outcome)
        return [sorted(completions, key=lambda one: one.index) for completions in finished.values()]

    def _trajectory(self, ordinal: int, one: Completion, sampling: SamplingParameters) -> Trajectory:
        return Trajectory(
            trajectory_id=f"{ordinal}/{one.index}",
            group_id=str(ordinal),
            sample_index=one.index,
            token_ids=one.token_ids,
            behaviour_logprobs=one.logprobs,
            spans=one.spans,
            finish_reason=one.finish_reason,
            sampling=sampling,
            precision=self._precision,
            engine="torch",
            engine_version="",
            replica_id="",
            first_token_seconds=0.0,
            total_seconds=0.0,
            kept=one.kept,
        )
