"""The asyncio side of the torch engine: requests in, completions out, weights staged beside generation."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ais.contracts.sampling import Precision
from ais.contracts.weights.forms import BF16, form_of_precision
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.engine import (
    CacheRange,
    EngineDescription,
    EngineFailedError,
    EngineLoad,
    EngineObserver,
    ModelUnsupportedError,
    SamplingFailedError,
    WeightSwap,
)
from ais.rollout.engines.life import Call, EngineLife
from ais.rollout.engines.limits import Limits
from ais.rollout.engines.probe import ProbeResult, judge, probe_of
from ais.rollout.engines.snapshots import digest_of_files, form_of, snapshot_files
from ais.rollout.engines.torch_engine.architecture import Architecture, read_architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.calibration import calibrated
from ais.rollout.engines.torch_engine.invariance.trial import check_invariance
from ais.rollout.engines.torch_engine.probe import check_finite, score
from ais.rollout.engines.torch_engine.slots import Ended, Group, Told
from ais.rollout.engines.torch_engine.weights import CPU, DecoderWeights, read_tensors, rounded_weights
from ais.rollout.engines.torch_engine.worker import Worker

logger = logging.getLogger(__name__)

CacheRanges = Mapping[str, CacheRange] | None


class TorchEngine(EngineLife):
    """Implements `ais.rollout.engine.Engine`. Make one with `open`, inside the event loop that will use it."""

    def __init__(
        self,
        architecture: Architecture,
        precision: Precision,
        policy: ServedPolicy,
        observer: EngineObserver,
        slots: int,
        max_model_len: int,
        max_waiting_sequences: int,
        probe_tolerance: float,
        batch_invariant: bool = False,
    ) -> None:
        super().__init__(Limits(architecture.vocab_size, max_model_len, room=slots + max_waiting_sequences))
        self._architecture = architecture
        self._parameter_count = sum(math.prod(shape) for shape in architecture.tensor_shapes().values())
        self._precision = precision
        self._policy = policy
        self._slots = slots
        self._probe_tolerance = probe_tolerance
        self._loop = asyncio.get_running_loop()
        self._tickets = itertools.count()
        self._sampling: dict[int, Call] = {}
        """By ticket."""
        self._swapping = asyncio.Lock()
        self._worker = Worker(
            Batch(architecture, precision, policy, slots, max_model_len, invariant=batch_invariant),
            observer,
            self._deliver,
            self._failed,
        )
        self._worker.start()

    @classmethod
    async def open(
        cls,
        directory: Path,
        precision: Precision,
        observer: EngineObserver,
        *,
        slots: int,
        max_model_len: int,
        max_waiting_sequences: int,
        probe_tolerance: float,
        device: torch.device = CPU,
        batch_invariant: bool = False,
    ) -> TorchEngine:
        """Loads a Hugging Face directory as policy version 0, onto `device`. Raises ModelUnsupportedError.

        `probe_tolerance`: mean gap to the trainer's log-probs, nats a token, above which a pushed version is refused.
        """

        def read() -> tuple[Architecture, ServedPolicy]:
            architecture = read_architecture(directory)
            files = snapshot_files(directory)
            try:
                weights, _cache = _staged(files, architecture, precision, device)
            except WeightsRefusedError as error:
                raise ModelUnsupportedError(f"{directory} cannot be served: {error}") from error
            if batch_invariant:
                check_invariance(weights, architecture, precision, slots)
            return architecture, ServedPolicy(weights, version=0, digest=digest_of_files(files))

        architecture, policy = await asyncio.to_thread(read)
        positions = min(max_model_len, architecture.max_positions)
        sizes = slots, positions, max_waiting_sequences
        return cls(architecture, precision, policy, observer, *sizes, probe_tolerance, batch_invariant)

    async def sample(self, call: Call) -> None:
        """See the base.

        A seed fixes every random number of the request, whatever else is in the batch. Log-probs still depend on the
        batch by the last bits of float32, because a matrix product of another height may add in another order; now and
        then BF16 rounds that to another value, and rarely another token follows. `batch_invariant` rules that out.
        """
        ticket, request = next(self._tickets), call.request
        self._sampling[ticket] = call
        seed = request.sampling.seed
        self._worker.submit(
            Group(
                ticket=ticket,
                request=request,
                stop_token_ids=request.sampling.stop_token_ids or self._architecture.stop_token_ids,
                seed=secrets.randbits(64) if seed is None else seed,
                arrived=time.monotonic(),
                streamed=call.streamed,
            )
        )
        try:
            await asyncio.Event().wait()  # until the call ends: the worker's thread tells what is finished
        finally:
            del self._sampling[ticket]
            if call.unfinished:
                self._worker.cancel(ticket)

    async def release(self) -> None:
        await asyncio.to_thread(self._worker.stop)

    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        async with self._swapping:
            begun = time.monotonic()
            weights, probed, cache = await asyncio.to_thread(self._probed, files)
            staged = time.monotonic()
            policy = ServedPolicy(weights, version, digest)
            paused_seconds = await self.unless_it_fails(asyncio.wrap_future(self._worker.replace(policy)))
            self._policy = policy
            return WeightSwap(
                staging_seconds=staged - begun,
                paused_seconds=paused_seconds,
                probe_gap=probed.mean_abs_gap if probed else None,
                probe_allowed=probed.allowed if probed else None,
                cache=cache,
            )

    def _probed(self, files: Sequence[Path]) -> tuple[DecoderWeights, ProbeResult | None, CacheRanges]:
        """Staged weights, how far they are from the snapshot's probe, if it has one, and what their cache has to hold.
        Raises WeightsRefusedError."""
        weights, cache = _staged(files, self._architecture, self._precision, self._policy.weights.device)
        probe = probe_of(files, self._architecture.vocab_size)
        if probe is None:
            return weights, None, cache
        weights, cache = calibrated(weights, self._architecture, self._precision, probe.token_ids)
        with torch.inference_mode():
            logprobs = score(weights, self._architecture, self._precision, probe.token_ids)
        return weights, judge(probe, logprobs, self._probe_tolerance), cache

    def describe(self) -> EngineDescription:
        return EngineDescription(
            engine="torch",
            engine_version=torch.__version__,
            model_type=self._architecture.model_type,
            vocab_size=self._architecture.vocab_size,
            max_model_len=self._limits.max_model_len,
            parameter_count=self._parameter_count,
            precision=self._precision,
            version=self._policy.version,
            digest=self._policy.digest,
            forms=_forms(self._precision),
        )

    def load(self) -> EngineLoad:
        running = self._worker.running_sequences
        return EngineLoad(
            running_sequences=running,
            waiting_sequences=max(0, self.outstanding - running),
            slots=self._slots,
        )

    def _deliver(self, ended: list[Ended], told: list[Told]) -> None:
        """Called in the worker's thread."""
        self._loop.call_soon_threadsafe(self._take, ended, told)

    def _take(self, ended: list[Ended], told: list[Told]) -> None:
        for news in told:
            if (call := self._sampling.get(news.ticket)) is not None:
                call.tell(news.sampled)
        for one in ended:
            call = self._sampling.get(one.ticket)
            if call is None:  # it was cancelled meanwhile
                continue
            if isinstance(one.outcome, SamplingFailedError):
                call.fail(one.outcome)
            else:
                call.finish(one.outcome)

    def _failed(self, error: BaseException) -> None:
        """Called in the worker's thread, which ends."""
        logger.error("the engine failed", exc_info=error)
        failure = EngineFailedError(f"the engine failed: {type(error).__name__}: {error}")
        self._loop.call_soon_threadsafe(self.fail, failure)


def _forms(precision: Precision) -> frozenset[str]:
    return frozenset((BF16, form_of_precision(precision)))


def _staged(
    files: Sequence[Path], architecture: Architecture, precision: Precision, device: torch.device
) -> tuple[DecoderWeights, CacheRanges]:
    """Weights that are verified, rounded and compute finite logits, and what their cache has to hold. Raises
    WeightsRefusedError."""
    if (form := form_of(files)) not in (known := _forms(precision)):
        raise WeightsRefusedError("form", f"expected {' or '.join(sorted(known))}, got {form}")
    with torch.inference_mode():
        weights = rounded_weights(read_tensors(files, architecture, form), architecture, precision, device)
        weights, cache = calibrated(weights, architecture, precision)
        check_finite(weights, architecture, precision)
    return weights, cache
