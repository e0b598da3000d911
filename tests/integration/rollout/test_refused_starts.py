"""A model directory that cannot be served is a permanent refusal of one line, whichever engine looks at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ais.rollout.metrics import RolloutMetrics
from ais.rollout.replica import open_engine as open_replicas_engine
from ais.rollout.settings import ReplaySettings, RolloutSettings
from ais.runtime.process import UnavailableError
from tests.support.recordings import recorded_group, recording

SPOILT: dict[str, Callable[[Path], object]] = {
    "a config that is no JSON": lambda model: (model / "config.json").write_text("{"),
    "a config that is no UTF-8": lambda model: (model / "config.json").write_bytes(b"\xff\xfe{}"),
    "a config without fields": lambda model: (model / "config.json").write_text("{}"),
    "a config that is a list": lambda model: (model / "config.json").write_text("[]"),
    "a config of another type": lambda model: (model / "config.json").write_text('{"model_type": 3}'),
    "cut weights": lambda model: (model / "model.safetensors").write_bytes(b"\x08\0\0\0"),
    "no weights": lambda model: (model / "model.safetensors").unlink(),
    "an index that is no JSON": lambda model: (model / "model.safetensors.index.json").write_text("{"),
    "an index without a map": lambda model: (model / "model.safetensors.index.json").write_text("{}"),
    "an index of a missing file": lambda model: (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "absent.safetensors"}})
    ),
}


@pytest.mark.parametrize("engine", ["torch", "replay"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_spoilt_model_directory_is_refused_for_good_in_one_line(
    spoil: Callable[[Path], object], engine: str, model_directory: Callable[[str], Path], tmp_path: Path
) -> None:
    model = shutil.copytree(model_directory("qwen3"), tmp_path / "model")
    spoil(model)
    registry = CollectorRegistry()
    replay = ReplaySettings(recording=recording(tmp_path, recorded_group((4, 5), [5])))
    settings = RolloutSettings.model_validate({"engine": engine, "replay": replay})
    with pytest.raises(UnavailableError) as refusal:
        await open_replicas_engine(model, settings, RolloutMetrics(registry), registry)
    assert "\n" not in str(refusal.value)
    assert str(model) in str(refusal.value)
