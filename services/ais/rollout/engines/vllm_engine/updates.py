"""A new policy version in a live engine: pause, load, probe, resume; or back to the version before.

Running sequences are kept and their key-value cache is thrown away at the pause: vLLM computes it again with the
version it resumes with. So every log-prob it records is one version's over its whole prefix, which a trainer can
recompute; with a cache left over from older weights it would be that of a mixture which no version has. No token is
sampled between the load and the probe's verdict, so none ever comes from weights that were refused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ais.contracts.weights.probe import Probe
from ais.contracts.weights.refusal import PROBE, WeightsRefusedError
from ais.rollout.engine import RollbackFailedError
from ais.rollout.engines.probe import ProbeResult, judge
from ais.rollout.engines.vllm_engine.precision import SnapshotFormat

FINITE_PROBE_TOKENS = 16
"""Tokens scored for a snapshot without a probe, whose log-probs must at least be finite."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A policy version that can be loaded, now or again."""

    number: int
    digest: str
    files: tuple[Path, ...]
    probe: Probe | None


@dataclass(frozen=True)
class Change:
    """What bringing a version in cost and showed."""

    paused_seconds: float
    probe: ProbeResult | None


class LiveWeights:
    """Which version an `AsyncLLM` serves. One change at a time, seen to by the caller."""

    def __init__(
        self, llm: Any, first: Version, snapshot_format: SnapshotFormat, vocab_size: int, tolerance: float,
        deadline_seconds: float,
    ) -> None:  # fmt: skip
        self.serving = first
        self._llm = llm
        self._format = snapshot_format
        self._tolerance = tolerance
        self._deadline_seconds = deadline_seconds
        step = max(1, vocab_size // FINITE_PROBE_TOKENS)
        self._finite_probe = (tuple(token % vocab_size for token in range(0, step * FINITE_PROBE_TOKENS, step)),)

    async def prepare(self) -> None:
        """Once, after the engine's start: names the first version, and computes a probe, which may have to compile."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
        await self._llm.update_weight_version(str(self.serving.number))
        await self._llm.pause_generation(mode="keep", clear_cache=True)
        await self._judge(self.serving)
        await self._llm.resume_generation()

    async def change(self, new: Version) -> Change:
        """Serves `new` from now on. Raises WeightsRefusedError when the old version serves again instead, and
        RollbackFailedError when nothing may be served any more: generation then stays paused."""
        begun = time.monotonic()
        refusal: WeightsRefusedError | None = None
        probed: ProbeResult | None = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._llm.pause_generation(mode="keep", clear_cache=True)
                try:
                    probed = await self._bring_in(new)
                except WeightsRefusedError as error:
                    refusal = error
                    logger.warning("going back from version %d to %d: %s", new.number, self.serving.number, error)
                    await self._bring_in(self.serving)
                await self._llm.resume_generation()
        except Exception as error:
            raise RollbackFailedError(
                f"neither version {new.number} nor version {self.serving.number} can be served: "
                f"{type(error).__name__}: {error}"
            ) from error
        if refusal is not None:
            raise refusal
        self.serving = new
        return Change(time.monotonic() - begun, probed)

    async def _bring_in(self, version: Version) -> ProbeResult | None:
        """Loads and probes. Raises WeightsRefusedError, whatever went wrong."""
        try:
            await self._load(version)
            return await self._judge(version)
        except WeightsRefusedError:
            raise
        except Exception as error:
            raise WeightsRefusedError("snapshot", f"expected weights that vLLM can load: {error}") from error

    async def _load(self, version: Version) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        update = {"paths": [str(file) for file in version.files], "format": self._format}
        await self._llm.start_weight_update()
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=update))
        await self._llm.finish_weight_update(str(version.number))

    async def _judge(self, version: Version) -> ProbeResult | None:
        """The probe's result, that with the largest mean gap of all data-parallel ranks. Raises WeightsRefusedError."""
        sequences = version.probe.token_ids if version.probe else self._finite_probe
        ranks = await self._llm.engine_core.call_utility_all_async(
            "collective_rpc", "ais_score", None, ([list(one) for one in sequences],), None
        )
        scores = [rank for data_parallel_rank in ranks for rank in data_parallel_rank if rank]
        if version.probe is None:
            for score in scores:
                _require_finite(score)
            return None
        results = [judge(version.probe, score, self._tolerance) for score in scores]
        return max(results, key=lambda result: result.mean_abs_gap)


def _require_finite(scores: Sequence[Sequence[float]]) -> None:
    if broken := sum(not math.isfinite(score) for sequence in scores for score in sequence):
        raise WeightsRefusedError(PROBE, f"expected finite log-probs, got NaN or infinity for {broken} tokens")
