"""Groups sampled by the torch engine's own batch, in this thread."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.patterns import exact_match
from ais.collector.rewards.response import Response
from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import ScoredGroup, Trajectory
from ais.rollout.engine import Completion, GenerationRequest, SamplingFailedError
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import rounded_weights

SLOTS = 256


class Sampler:
    """One policy at one precision, replaced between calls."""

    def __init__(
        self,
        architecture: Architecture,
        tokenizer: Tokenizer,
        precision: Precision,
        positions: int,
        slots: int = SLOTS,
    ) -> None:
        """`positions`: longest prompt plus response, tokens. `slots`: sequences at once."""
        self._slots = slots
        self._architecture = architecture
        self._tokenizer = tokenizer
        self._precision = precision
        self._positions = positions
        self._tickets = itertools.count()
        self._batch: Batch | None = None

    @torch.inference_mode()
    def serve(self, masters: Mapping[str, torch.Tensor], version: int) -> None:
        """Takes the BF16 rounding of `masters`, quantised as the precision says."""
        snapshot = {name: weight.detach().bfloat16() for name, weight in masters.items()}
        weights = rounded_weights(snapshot, self._architecture, self._precision)
        policy = ServedPolicy(weights, version, digest="")
        if self._batch is None:
            self._batch = Batch(self._architecture, self._precision, policy, self._slots, self._positions)
        self._batch.replace(policy)

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], samples: int, sampling: SamplingParameters) -> list[ScoredGroup]:
        """`samples` scored responses to each prompt, in the order of the prompts. `sampling.seed` seeds the first."""
        assert self._batch is not None
        assert sampling.seed is not None
        tokens = [np.array(self._tokenizer.encode(prompt.text).ids, dtype=np.int32) for prompt in prompts]
        finished: dict[int, list[Completion]] = {}
        order = []
        for index, prompt in enumerate(tokens):
            ticket = next(self._tickets)
            order.append(ticket)
            finished[ticket] = []
            request = GenerationRequest(str(ticket), tuple(prompt.tolist()), samples, sampling)
            stops = self._architecture.stop_token_ids
            self._batch.submit(Group(ticket, request, stops, seed=sampling.seed + index, arrived=0.0))
        while not self._batch.slots.idle:
            for ended in self._batch.step():
                if isinstance(ended.outcome, SamplingFailedError):
                    raise ended.outcome
                finished[ended.ticket].append(ended.outcome)
        return [
            self._score(prompt, ids, sorted(finished[ticket], key=lambda one: one.index), sampling)
            for prompt, ids, ticket in zip(prompts, tokens, order, strict=True)
        ]

    def _score(
        self, prompt: Prompt, ids: np.ndarray, completions: Sequence[Completion], sampling: SamplingParameters
    ) -> ScoredGroup:
        rewards = tuple(
            exact_match(Response(self._tokenizer.decode(one.token_ids.tolist()), one.finish_reason), prompt)
            for one in completions
        )
        trajectories = tuple(
            Trajectory(
                trajectory_id=f"{prompt.prompt_id}/{one.index}",
                group_id=prompt.prompt_id,
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
            )
            for one in completions
        )
        return ScoredGroup(prompt.prompt_id, 0, prompt.prompt_id, ids, trajectories, rewards, "", 1)
