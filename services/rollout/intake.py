"""Weight intake: a pushed snapshot becomes the policy that serves, or nothing changes.

The body is staged in a file while it is hashed; only a snapshot with the promised digest is looked into, and only one
whose tensors are all right, and that computes what the trainer computed with it, is applied.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from services.contracts.weights import ENCODING_FULL, DigestBuilder, WeightsStatus
from services.rollout.engine import (
    Engine,
    EngineFailedError,
    ProbeRejectedError,
    RollbackFailedError,
    WeightsRejectedError,
)
from services.rollout.metrics import RolloutMetrics

LARGEST_DTYPE_BYTES = 4
HEADER_BYTES = 64 * 1024 * 1024
"""Room for the safetensors header beside the values."""
STALLED_SECONDS = 30.0
"""A push that sends nothing for this long is given up."""


class WeightsRefusedError(Exception):
    """A push that changed nothing; `status` is the HTTP status of `services.contracts.weights`."""

    def __init__(self, status: int, field: str, reason: str, probe_gap: float | None = None) -> None:
        super().__init__(f"{field}: {reason}")
        self.status = status
        self.field = field
        self.reason = reason
        self.probe_gap = probe_gap


class WeightIntake:
    """Receives pushes, one applied at a time, for one engine."""

    def __init__(self, engine: Engine, staging: Path, metrics: RolloutMetrics, applied: Callable[[], None]) -> None:
        """`staging` is a directory for bodies on their way in; `applied` is called when a new version serves."""
        self._engine = engine
        self._staging = staging
        self._metrics = metrics
        self._applied = applied
        self._applying = asyncio.Lock()
        self._applied_seconds = 0.0
        self._probe_gap: float | None = None
        self.draining = False

    def status(self) -> WeightsStatus:
        description = self._engine.describe()
        return WeightsStatus(
            version=description.version,
            digest=description.digest,
            applied_seconds=self._applied_seconds,
            probe_gap=self._probe_gap,
        )

    async def receive(
        self, version: int, encoding: str, digest: str, length: int | None, body: AsyncIterator[bytes]
    ) -> WeightsStatus:
        """Stages, verifies, applies. Raises WeightsRefusedError; then the old version goes on serving."""
        try:
            self._check_envelope(encoding, digest, length)
            with tempfile.NamedTemporaryFile(dir=self._staging, suffix=".safetensors") as file:
                await self._stage(body, length, digest, Path(file.name))
                async with self._applying:
                    return await self._apply(version, digest, Path(file.name))
        except WeightsRefusedError as refusal:
            self._metrics.weight_swaps.labels(str(refusal.status)).inc()
            raise

    def _check_envelope(self, encoding: str, digest: str, length: int | None) -> None:
        if self.draining:
            raise WeightsRefusedError(503, "replica", "is draining and takes no new weights")
        if encoding != ENCODING_FULL:
            raise WeightsRefusedError(415, "encoding", f"expected {ENCODING_FULL}, got {encoding!r}")
        if not digest.startswith("sha256:"):
            raise WeightsRefusedError(422, "digest", f"expected sha256:<hex>, got {digest!r}")
        if length is None:
            raise WeightsRefusedError(411, "length", "expected a Content-Length")
        largest = self._engine.describe().parameter_count * LARGEST_DTYPE_BYTES + HEADER_BYTES
        if length > largest:
            raise WeightsRefusedError(413, "length", f"expected at most {largest} bytes for this model, got {length}")

    async def _stage(self, body: AsyncIterator[bytes], length: int | None, digest: str, path: Path) -> None:
        builder = DigestBuilder()
        with path.open("wb") as file:
            pieces = aiter(body)
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces), STALLED_SECONDS)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    raise WeightsRefusedError(
                        408, "body", f"nothing came for {STALLED_SECONDS:g} s after {file.tell()} of {length} bytes"
                    ) from None
                builder.update(piece)
                file.write(piece)
                self._metrics.weight_bytes.inc(len(piece))
        if (got := builder.result()) != digest:
            raise WeightsRefusedError(422, "digest", f"expected {digest}, got {got}; send the snapshot again")

    async def _apply(self, version: int, digest: str, snapshot: Path) -> WeightsStatus:
        serving = self._engine.describe()
        if version == serving.version and digest == serving.digest:
            self._metrics.weight_swaps.labels("unchanged").inc()
            return self.status()
        if version == serving.version:
            raise WeightsRefusedError(
                409, "digest", f"version {version} is served with digest {serving.digest}; a version never changes"
            )
        if version < serving.version:
            raise WeightsRefusedError(409, "version", f"expected more than {serving.version}, got {version}")
        try:
            swap = await self._engine.swap_weights(version, digest, snapshot)
        except ProbeRejectedError as error:
            self._metrics.probe_rejections.labels("kept").inc()
            reason = f"expected {error.expected}, got {error.got}"
            raise WeightsRefusedError(422, error.field, reason, error.gap) from error
        except WeightsRejectedError as error:
            raise WeightsRefusedError(422, error.field, f"expected {error.expected}, got {error.got}") from error
        except EngineFailedError as error:
            if isinstance(error, RollbackFailedError):
                self._metrics.probe_rejections.labels("lost").inc()
            raise WeightsRefusedError(503, "replica", str(error)) from error
        self._applied_seconds = swap.paused_seconds
        self._probe_gap = swap.probe_gap
        self._applied()
        self._metrics.weight_swaps.labels("applied").inc()
        self._metrics.swap_paused_seconds.observe(swap.paused_seconds)
        self._metrics.swap_staging_seconds.observe(swap.staging_seconds)
        self._metrics.show_probe_gap(swap.probe_gap)
        return self.status()
