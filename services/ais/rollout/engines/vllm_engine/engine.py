"""The asyncio side of the vLLM engine: requests in, completions out, weights changed under running requests."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.contracts.trajectory import PolicySpan
from ais.rollout.engine import (
    Completion,
    EngineDescription,
    EngineDrainingError,
    EngineFailedError,
    EngineLoad,
    GenerationRequest,
    InvalidRequestError,
    RollbackFailedError,
    WeightSwap,
)
from ais.rollout.engines.limits import Limits
from ais.rollout.engines.probe import probe_of
from ais.rollout.engines.snapshots import checked_tensors
from ais.rollout.engines.vllm_engine.arguments import really_computed
from ais.rollout.engines.vllm_engine.load import EngineStatistics
from ais.rollout.engines.vllm_engine.model import ServedModel
from ais.rollout.engines.vllm_engine.updates import LiveWeights, Version
from ais.rollout.settings import RolloutSettings
from ais.runtime.tasks import end_tasks

HEALTH_SECONDS = 0.5
"""How often the engine is asked whether it lives."""
LOWEST_TEMPERATURE = 0.01
"""vLLM raises lower ones to this, and would then sample from another distribution than the trainer scores with."""


class VllmEngine:
    """Implements `ais.rollout.engine.Engine`. Made by `opening.open_vllm`, in the event loop that will use it."""

    def __init__(
        self, llm: Any, model: ServedModel, settings: RolloutSettings, weights: LiveWeights,
        statistics: list[EngineStatistics], directory: Path,
        resources: ExitStack,
    ) -> None:  # fmt: skip
        """`directory` keeps the snapshots that are served; `resources` is closed with the engine."""
        self._llm = llm
        self._model = model
        self._settings = settings
        self._precision = really_computed(settings.precision)
        self._weights = weights
        self._statistics = statistics
        self._directory = directory
        self._resources = resources
        self._limits = Limits(model.vocab_size, model.max_model_len, settings.slots + settings.max_waiting_sequences)
        self._tickets = itertools.count()
        self._outstanding = 0
        """Samples that were taken in and have not ended."""
        self._settled = _event(True)
        """There are none."""
        self._inside = 0
        """Samples that vLLM has."""
        self._idle = _event(True)
        """It has none."""
        self._admitting = _event(True)
        """vLLM may be given more."""
        self._swapping = asyncio.Lock()
        self._draining = False
        self._handing_back = False
        self._samples: set[asyncio.Task[Completion]] = set()
        self._failure: asyncio.Future[EngineFailedError] = asyncio.get_running_loop().create_future()
        self._health = asyncio.create_task(self._watch(), name="vllm health")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Completion]:
        """See the protocol. A seed fixes the random numbers of each sample, whatever else is in the batch."""
        self._check(request)
        arrived = time.monotonic()
        seed = request.sampling.seed
        samples = []
        for index in range(request.samples):
            sampling = self._vllm_sampling(request.sampling, None if seed is None else _sample_seed(seed, index))
            samples.append(asyncio.create_task(self._sample(request, index, sampling, arrived)))
            samples[-1].add_done_callback(self._ended)
        self._samples.update(samples)
        self._outstanding += len(samples)
        self._settled.clear()
        try:
            for finished in asyncio.as_completed(samples):
                yield await finished
        finally:
            await end_tasks(*samples)

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
        running = min(sum(rank.running for rank in self._statistics), self._outstanding)
        return EngineLoad(
            running_sequences=running,
            waiting_sequences=self._outstanding - running,
            slots=self._settings.slots * self._settings.vllm.data_parallel_size,
        )

    def on_failure(self, callback: Callable[[EngineFailedError], None]) -> None:
        self._failure.add_done_callback(lambda failure: callback(failure.result()))

    async def drain(self, deadline_seconds: float) -> None:
        self._draining = True
        try:
            await asyncio.wait_for(self._settled.wait(), deadline_seconds)
        except TimeoutError:
            self._handing_back = True
            for sample in self._samples:
                sample.cancel()

    async def close(self) -> None:
        self._draining = True
        await end_tasks(self._health)
        self._fail(EngineFailedError("the engine was closed while the request was running"))
        await asyncio.to_thread(self._resources.close)

    def _check(self, request: GenerationRequest) -> None:
        if self._failure.done():
            raise self._failure.result()
        if self._draining:
            raise EngineDrainingError("this replica is draining and takes no new work")
        self._limits.check(request, outstanding=self._outstanding)
        if 0.0 < request.sampling.temperature < LOWEST_TEMPERATURE:
            raise InvalidRequestError(
                "sampling.temperature",
                f"expected 0 (greedy) or at least {LOWEST_TEMPERATURE}, got {request.sampling.temperature}",
            )

    # Sampling.

    async def _sample(self, request: GenerationRequest, index: int, sampling: Any, arrived: float) -> Completion:
        try:
            await self._admitting.wait()
            return await self._inside_vllm(request, index, sampling, arrived)
        except asyncio.CancelledError:
            if self._handing_back:
                raise EngineDrainingError("not finished at the end of the drain") from None
            raise

    async def _inside_vllm(self, request: GenerationRequest, index: int, sampling: Any, arrived: float) -> Completion:
        self._inside += 1
        self._idle.clear()
        try:
            prompt = {"prompt_token_ids": list(request.prompt_token_ids)}
            outputs = [one async for one in self._llm.generate(prompt, sampling, f"ais-{next(self._tickets)}")]
        except Exception as error:
            raise EngineFailedError(f"vLLM: {type(error).__name__}: {error}") from error
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()
        return self._completion(request, index, outputs[-1], arrived)

    def _vllm_sampling(self, sampling: SamplingParameters, seed: int | None) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(sampling.stop_token_ids or self._model.stop_token_ids),
            ignore_eos=True,  # the stop tokens are all there are
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _completion(self, request: GenerationRequest, index: int, output: Any, arrived: float) -> Completion:
        sample = output.outputs[0]
        if sample.finish_reason not in ("stop", "length"):
            raise EngineFailedError(f"vLLM ended sample {index} of {request.group_id} with {sample.finish_reason}")
        logprobs = np.minimum(np.array(sample.logprobs.logprobs, dtype=np.float32), 0.0)
        if request.sampling.temperature == 0.0:
            logprobs = np.zeros_like(logprobs)  # greedy: the distribution sampled from has one token
        return Completion(
            index=index,
            token_ids=np.array(sample.token_ids, dtype=np.int32),
            logprobs=logprobs,
            spans=tuple(PolicySpan(int(span.version), span.start, span.end) for span in sample.weight_versions),
            finish_reason=FinishReason(sample.finish_reason),
            first_token_seconds=output.metrics.first_token_latency,
            total_seconds=time.monotonic() - arrived,
        )

    def _ended(self, sample: asyncio.Task[Completion]) -> None:
        self._samples.discard(sample)
        if not sample.cancelled():
            sample.exception()  # seen, also where its siblings' came first
        self._outstanding -= 1
        if not self._outstanding:
            self._settled.set()

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
                self._fail(failure)
                raise
            finally:
                self._admitting.set()
                self._discard(old if self._weights.serving is new else new)
            return WeightSwap(staged - begun, change.paused_seconds, change.probe_gap)

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
        self._fail(EngineFailedError("vLLM's engine process has ended; its output above says why"))

    def _fail(self, failure: EngineFailedError) -> None:
        if not self._failure.done():
            self._failure.set_result(failure)


def _sample_seed(seed: int, index: int) -> int:
    """Seed of one sample of a seeded group; those of any two pairs are unrelated."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=7).digest(), "little")


def _event(is_set: bool) -> asyncio.Event:
    event = asyncio.Event()
    if is_set:
        event.set()
    return event
