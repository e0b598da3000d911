"""Neither side holds a version in memory: writing, the delta, sending, receiving and unpacking are all bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import torch

from ais.contracts.weights.upload import these, upload
from ais.rollout.engine import WeightSwap
from ais.runtime.network.http import serve
from ais.trainer.weights.deltas import Origin, Parcel, delta, full
from ais.trainer.weights.snapshot import Snapshot, Staging, write_snapshot
from tests.support.replicas.replica_stand_ins import KeepingEngine, StandInReplica

TENSORS, ROWS = 64, 1024
MODEL_BYTES = TENSORS * ROWS * 1024 * 2
"""128 MiB as BF16; one tensor is 2 MiB."""
BOUND = MODEL_BYTES // 4


class ForgettingEngine(KeepingEngine):
    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        self.version, self.digest = version, digest
        return WeightSwap(0.0, 0.0, None)


def tensors(version: int) -> Iterator[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for index in range(TENSORS):
        tensor = torch.rand(ROWS, 1024, generator=generator)
        tensor[:, :100] += version
        yield f"layer.{index:03d}", tensor


def written(version: int, staging: Path) -> Snapshot:
    shapes = {f"layer.{index:03d}": (ROWS, 1024) for index in range(TENSORS)}
    return write_snapshot(version, shapes, tensors(version), None, Staging(staging, shard_bytes=MODEL_BYTES // 3))


@pytest.mark.slow
async def test_a_version_and_its_delta_pass_through_in_bounded_memory(tmp_path: Path) -> None:
    replica = StandInReplica("replica", 0, "blake3:0", tmp_path)
    engine = ForgettingEngine(0, "blake3:0")
    replica.engine = replica.intake._engine = engine  # type: ignore[assignment]
    async with serve(replica.app, "127.0.0.1", 0) as port, httpx.AsyncClient(timeout=60, trust_env=False) as client:

        async def pushed(parcel: Parcel) -> None:
            await upload(client, f"http://127.0.0.1:{port}", parcel.offer, these(parcel.files))
            assert engine.digest == parcel.offer.digest

        tracemalloc.start()
        try:
            first, second = written(1, tmp_path), written(2, tmp_path)
            await pushed(full(first, Origin()))
            await pushed(coded := delta(first, second, Origin(), threads=1))
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(first.files) > 1
    assert coded.offer.sent_bytes < second.size
    assert peak < BOUND, f"{peak / 1e6:.0f} MB of a version of {MODEL_BYTES / 1e6:.0f} MB"
    await replica.intake.close()
