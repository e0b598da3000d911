"""The asyncio side of the vLLM engine: requests in, completions out, weights changed under running requests."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import PolicySpan
from ais.rollout.engine import (
    Completion,
    EngineDescription,
    EngineFailedError,
    EngineLoad,
    GenerationRequest,
    RollbackFailedError,
    Sampled,
    SamplingFailedError,
    WeightSwap,
)
from ais.rollout.engines.life import Call, EngineLife, sample_each
from ais.rollout.engines.limits import Limits
from ais.rollout.engines.probe import probe_of
from ais.rollout.engines.snapshots import checked_tensors
from ais.rollout.engines.vllm_engine.arguments import really_computed
from ais.rollout.engines.vllm_engine.kept import asked_logprobs, kept_beside
from ais.rollout.engines.vllm_engine.load import EngineStatistics
from ais.rollout.engines.vllm_engine.model import ServedModel
from ais.rollout.engines.vllm_engine.routing.names import RECORDED
from ais.rollout.engines.vllm_engine.routing.routes import Routes
from ais.rollout.engines.vllm_engine.updates import LiveWeights, Version
from ais.rollout.settings import RolloutSettings
from ais.runtime.tasks import end_tasks

HEALTH_SECONDS = 0.5
"""How often the engine is asked whether it lives."""
LOWEST_TEMPERATURE = 0.01
"""vLLM raises lower ones to this, and would then sample from another distribution than the trainer scores with."""


class VllmEngine(EngineLife):
    """Implements `ais.rollout.engine.Engine`. Made by `opening.open_vllm`, in the event loop that will use it."""

    def __init__(
        self, llm: Any, model: ServedModel, settings: RolloutSettings, weights: LiveWeights,
        statistics: list[EngineStatistics], directory: Path,
        resources: ExitStack, routes: Routes | None = None,
    ) -> None:  # fmt: skip
        """`directory` keeps the snapshots that are served; `resources` is closed with the engine. `routes`: where
        routed experts are taken; None: they are not recorded."""
        room = settings.slots + settings.max_waiting_sequences
        super().__init__(Limits(model.vocab_size, model.max_model_len, room, LOWEST_TEMPERATURE))
        self._llm = llm
        self._model = model
        self._settings = settings
        self._precision = really_computed(settings.precision)
        self._weights = weights
        self._statistics = statistics
        self._directory = directory
        self._resources = resources
        self._routes = routes
        self._tickets = itertools.count()
        self._inside = 0
        """Samples that vLLM has."""
        self._idle = _event(True)
        """It has none."""
        self._admitting = _event(True)
        """vLLM may be given more."""
        self._swapping = asyncio.Lock()
        self._health = asyncio.create_task(self._watch(), name="vllm health")

    async def sample(self, call: Call) -> None:
        """See the base. A seed fixes the random numbers of each sample, whatever else is in the batch."""
        arrived, request = time.monotonic(), call.request
        seed = request.sampling.seed

        async def one(index: int) -> Completion:
            drawn = None if seed is None else _sample_seed(seed, index)
            sampling = self._vllm_sampling(request, drawn, call.streamed)
            await self._admitting.wait()
            return await self._inside_vllm(call, index, sampling, arrived)

        await sample_each(call, one)

    async def release(self) -> None:
        await end_tasks(self._health)
        await asyncio.to_thread(self._resources.close)

    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        # A task of its own: a caller that goes away must not leave the engine half-way between two versions.
        return await asyncio.shield(asyncio.create_task(self._swap(version, digest, files)))

    def describe(self) -> EngineDescription:
        return EngineDescription(
            engine="vllm",
            engine_version=self._model.engine_version,
            model_type=self._model.model_type,
            vocab_size=self._model.vocab_size,
            max_model_len=self._model.max_model_len,
            parameter_count=self._model.parameter_count,
            precision=self._precision,
            version=self._weights.serving.number,
            digest=self._weights.serving.digest,
        )

    def load(self) -> EngineLoad:
        """Running is what vLLM says it runs; all else that was taken in waits, in vLLM's queue or on the way there."""
        running = min(sum(rank.running for rank in self._statistics), self.outstanding)
        return EngineLoad(
            running_sequences=running,
            waiting_sequences=self.outstanding - running,
            slots=self._settings.slots * self._settings.vllm.data_parallel_size,
        )

    # Sampling.

    async def _inside_vllm(self, call: Call, index: int, sampling: Any, arrived: float) -> Completion:
        self._inside += 1
        self._idle.clear()
        told, output = 0, None
        routes = self._routes if call.request.for_training else None
        name = f"{RECORDED if routes else 'ais-'}{next(self._tickets)}"
        try:
            prompt = {"prompt_token_ids": list(call.request.prompt_token_ids)}
            async for output in self._llm.generate(prompt, sampling, name):
                if not output.finished and (new := tuple(output.outputs[0].token_ids[told:])):  # of a streamed call
                    logprobs = _logprobs(call.request, index, output.outputs[0].logprobs, told)[: len(new)]
                    call.tell(Sampled(index, new, tuple(logprobs.tolist())))
                    told += len(new)
            completion = self._completion(call.request, index, output, arrived)
            if routes is None:
                return completion
            read = len(call.request.prompt_token_ids) + len(completion.token_ids) - 1
            return replace(completion, routed=await routes.of(name, output, read))
        except (SamplingFailedError, EngineFailedError):
            raise
        except Exception as error:
            raise EngineFailedError(f"vLLM: {type(error).__name__}: {error}") from error
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    def _vllm_sampling(self, request: GenerationRequest, seed: int | None, streamed: bool) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = request.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=seed,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(sampling.stop_token_ids or self._model.stop_token_ids),
            ignore_eos=True,  # the stop tokens are all there are
            logprobs=asked_logprobs(request, self._model.vocab_size),
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE if streamed else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _completion(self, request: GenerationRequest, index: int, output: Any, arrived: float) -> Completion:
        sample = output.outputs[0]
        if sample.finish_reason not in ("stop", "length"):
            raise EngineFailedError(f"vLLM ended sample {index} of {request.group_id} with {sample.finish_reason}")
        told = sample.logprobs
        logprobs = _logprobs(request, index, told)
        return Completion(
            index=index,
            token_ids=np.array(sample.token_ids, dtype=np.int32),
            logprobs=logprobs,
            spans=tuple(PolicySpan(int(span.version), span.start, span.end) for span in sample.weight_versions),
            finish_reason=FinishReason(sample.finish_reason),
            first_token_seconds=output.metrics.first_token_latency,
            total_seconds=time.monotonic() - arrived,
            queued_seconds=max(0.0, output.metrics.scheduled_ts - output.metrics.queued_ts),
            kept=kept_beside(told) if asked_logprobs(request, self._model.vocab_size) else None,
        )

    # Weights.

    async def _swap(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        async with self._swapping:
            begun = time.monotonic()
            new = await asyncio.to_thread(self._stage, version, digest, files)
            staged = time.monotonic()
            old = self._weights.serving
            try:
                if self._settings.vllm.update == "finish":
                    self._admitting.clear()
                    await self._idle.wait()
                change = await self._weights.change(new)
            except RollbackFailedError as failure:
                self.fail(failure)
                raise
            finally:
                self._admitting.set()
                self._discard(old if self._weights.serving is new else new)
            probed = change.probe
            return WeightSwap(
                staged - begun,
                change.paused_seconds,
                probed.mean_abs_gap if probed else None,
                probed.allowed if probed else None,
            )

    def _stage(self, version: int, digest: str, files: Sequence[Path]) -> Version:
        """Keeps a verified snapshot, to load now and to go back to. Raises WeightsRefusedError."""
        for _name, _tensor in checked_tensors(files, self._model.shapes, self._model.tied_embeddings):
            pass
        probe = probe_of(files, self._model.vocab_size)
        if probe is not None:
            probe = probe.cut(self._model.max_model_len - 1)
        return Version(version, digest, tuple(self._kept(version, digest, file) for file in files), probe)

    def _kept(self, version: int, digest: str, file: Path) -> Path:
        # A trainer that resumed may make another version of the same number while the first one still serves.
        kept = self._directory / f"version-{version}-{digest.rpartition(':')[2][:12]}-{file.name}"
        kept.unlink(missing_ok=True)
        try:
            os.link(file, kept)
        except OSError:  # another file system
            shutil.copyfile(file, kept)
        return kept

    def _discard(self, version: Version) -> None:
        """Removes what was kept of a version, but not the model's own files."""
        for file in version.files:
            if file.is_relative_to(self._directory):
                file.unlink(missing_ok=True)

    # Failing.

    async def _watch(self) -> None:
        while not self._llm.errored:  # noqa: ASYNC110  # vLLM has no event for it
            await asyncio.sleep(HEALTH_SECONDS)
        self.fail(EngineFailedError("vLLM's engine process has ended; its output above says why"))


def _logprobs(request: GenerationRequest, index: int, told: Any, begin: int = 0) -> np.ndarray:
    """float32 [T - begin]: those of the sampled tokens from `begin` on. Raises SamplingFailedError where one is no
    number."""
    sampled = [told.logprobs[place] for place in told.start_indices[begin:]]
    logprobs = np.minimum(np.array(sampled, dtype=np.float32), 0.0)
    if request.sampling.temperature == 0.0:
        logprobs = np.zeros_like(logprobs)  # greedy: the distribution sampled from has one token
    if not np.isfinite(logprobs).all():
        raise SamplingFailedError(
            f"sample {index} of {request.group_id}: the policy's log-probs are NaN or infinite for "
            f"{int((~np.isfinite(logprobs)).sum())} of {len(logprobs)} tokens"
        )
    return logprobs


def _sample_seed(seed: int, index: int) -> int:
    """Seed of one sample of a seeded group; those of any two pairs are unrelated."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=7).digest(), "little")


def _event(is_set: bool) -> asyncio.Event:
    event = asyncio.Event()
    if is_set:
        event.set()
    return event
