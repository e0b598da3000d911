"""A whole run by adapters that replicas merge: what they sample with is what the trainer scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runs import EXAMPLES, started

SETTINGS = {
    "run.steps": 4,
    "run.max_staleness": 0,
    "rollout.precision.weights": "bf16",
    "rollout.precision.activations": "bf16",
    "trainer.lora.rank": 4,
    "trainer.push.lora": "adapter",
    "trainer.optimizer.learning_rate": 3e-3,
    "trainer.checkpoints.every_steps": 2,
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_replicas_sample_with_the_adapter_that_the_trainer_trained(tmp_path: Path) -> None:
    with started(EXAMPLES / "sort16" / "config.toml", tmp_path, SETTINGS) as run:
        figures = run.ended_well("trainer")["trainer"]
    steps = run.lines("steps")
    assert [step["version"] for step in steps] == [1, 2, 3, 4]
    assert len({step["digest"] for step in steps}) == 4
    # Each batch was sampled with the weights it is scored with, in the same format: what is left is the order of sums.
    assert all(step["staleness_max"] == 0 and step["log_ratio_abs_mean"] < 1e-3 for step in steps)
    sent = {name: figures[f'ais_weight_push_bytes_total{{encoding="{name}"}}'] for name in ("full", "delta", "adapter")}
    assert sent["adapter"] > 0
    assert sent["delta"] == 0
    assert json.loads((run.directory / "model" / "adapter" / "adapter_config.json").read_text())["r"] == 4
