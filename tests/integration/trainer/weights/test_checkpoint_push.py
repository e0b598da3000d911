"""A checkpoint's files reach a replica as `ais eval` sends them, in one file or several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastapi import Response

from ais.collector.evaluation import Replica, push
from ais.collector.settings import CollectorProcessSettings
from ais.runtime.process import UnavailableError
from ais.runtime.security.settings import SecuritySettings
from ais.trainer.weights.snapshot import Snapshot, Staging, take_snapshot
from tests.support.access import tokens
from tests.support.replicas.replica_stand_ins import Fleet

SETTINGS = CollectorProcessSettings(security=SecuritySettings(tokens=tokens()))


def checkpoint(directory: Path, shard_bytes: int) -> Snapshot:
    directory.mkdir()
    weights = {f"layer.{index}": torch.randn(100, generator=torch.Generator().manual_seed(index)) for index in range(4)}
    snapshot = take_snapshot(40, weights, None, Staging(directory.parent, shard_bytes))
    snapshot.place_in(directory)
    return snapshot


@pytest.mark.parametrize("shard_bytes", [1 << 20, 250], ids=["one file", "shards"])
async def test_a_checkpoint_is_served(shard_bytes: int, fleet: Fleet, tmp_path: Path) -> None:
    replica = await fleet.join("replica")
    snapshot = checkpoint(tmp_path / "step-000040", shard_bytes)
    assert (len(snapshot.files) > 1) == (shard_bytes == 250)
    await push(Replica("127.0.0.1:1", replica.url), tmp_path / "step-000040", 40, SETTINGS)
    assert (replica.version, replica.engine.digest) == (40, snapshot.digest)


async def test_a_refusal_is_told_with_its_reason(fleet: Fleet, tmp_path: Path) -> None:
    replica = await fleet.join("replica")

    async def refuse(version: int) -> Response:
        return Response('{"field": "x", "reason": "another model", "serving_version": 0}', status_code=422)

    replica.answer = refuse
    checkpoint(tmp_path / "step-000040", 1 << 20)
    with pytest.raises(UnavailableError, match="another model"):
        await push(Replica("127.0.0.1:1", replica.url), tmp_path / "step-000040", 40, SETTINGS)


async def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"has no model\.safetensors"):
        await push(Replica("127.0.0.1:1", "http://127.0.0.1:9"), tmp_path, 1, SETTINGS)
