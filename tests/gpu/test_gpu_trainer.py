"""A step of the trainer on a GPU, and the version that it sends to an engine there."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from ais.contracts.sampling import Precision
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import Staging
from ais_core.settings import CorrectionSettings, MixingSettings
from tests.support.tiny_models import Observer, collect, random_model, request_for
from tests.support.trainer_groups import make_group

CPU = torch.device("cpu")
GROUPS = [make_group(ordinal, lengths=(2, 10)) for ordinal in range(6)]
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"rank": 4}},
    "straight through": {"objective": {"straight_through": True}},
    "two updates": {"objective": {"updates_per_batch": 2}},
    "checkpointing": {"compute": {"activation_checkpointing": True, "tokens_per_microbatch": 64}},
    "reference": {"objective": {"reference": {"policy": "start", "coefficient": 0.1}, "entropy_coefficient": 0.01}},
}
COMPARED = ("loss", "gradient_norm", "entropy", "alpha", "kl_k3", "log_ratio_abs_mean", "ess_ratio_applied")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("qwen3")
    random_model("qwen3", seed=1).save_pretrained(directory)
    return directory


def learner_on(device: torch.device, model: Path, staging: Path | None = None, **settings: Any) -> Learner:
    from ais.trainer.learning.reference import load_reference

    if "lora" in settings:
        pytest.importorskip("peft", reason="needs the extra lora")
    trainer = TrainerSettings.model_validate({"optimizer": {"learning_rate": 1e-3, "warmup_steps": 0}} | settings)
    run, ranks = RunSettings(model=model, steps=10), Ranks(device)
    policy = load_policy(model, trainer, ranks)
    # The made-up log-probs are no policy's; a batch that is not trusted is not trained.
    correction = CorrectionSettings(mixing=MixingSettings(evaluation="same_batch", mismatch_limit=math.inf))
    reference = load_reference(run, trainer, policy, ranks)
    return Learner(policy, run, trainer, correction, Staging(staging) if staging else None, ranks, reference)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_has_the_processors_figures(way: str, model: Path, device: torch.device) -> None:
    found, expected = (
        asdict(learner_on(where, model, **WAYS[way]).step(GROUPS, PhaseClock()).figures) for where in (device, CPU)
    )
    assert found["updates"] == expected["updates"] == WAYS[way].get("objective", {}).get("updates_per_batch", 1)
    for name in COMPARED:
        assert found[name] == pytest.approx(expected[name], rel=0.1, abs=0.02), name


@pytest.mark.parametrize("way", ["full", "lora"])
def test_training_goes_on_from_what_was_saved(way: str, model: Path, device: torch.device, tmp_path: Path) -> None:
    learner = learner_on(device, model, tmp_path, **WAYS[way])
    learner.step(GROUPS, PhaseClock())
    learner.save(tmp_path / "saved").result(timeout=60)
    memory = learner.memory
    expected = learner.step(GROUPS, PhaseClock()).figures
    again = learner_on(device, model, tmp_path, **WAYS[way])
    again.resume(memory, tmp_path / "saved")
    assert again.step(GROUPS, PhaseClock()).figures.loss == pytest.approx(expected.loss, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(
    "precision", [Precision(weights="bf16"), Precision(), Precision(weights="int8", activations="int8")], ids=str
)
async def test_a_version_arrives_whole_and_passes_its_probe(
    precision: Precision, model: Path, device: torch.device, tmp_path: Path
) -> None:
    """Trained, written with a probe, taken by an engine on the same device while it samples; then it samples by it."""
    learner = learner_on(device, model, tmp_path)
    outcome = learner.step(GROUPS, PhaseClock())
    engine = await TorchEngine.open(
        model, precision, Observer(), slots=8, max_model_len=128, max_waiting_sequences=64,
        probe_tolerance=tolerance(precision), device=device,
    )  # fmt: skip
    try:
        before = await collect(engine, request_for((1, 5, 9), samples=4))
        snapshot = outcome.snapshot
        swap = await engine.swap_weights(1, snapshot.digest, [file.path for file in snapshot.files])
        assert (engine.describe().version, engine.describe().digest) == (1, snapshot.digest)
        assert swap.probe_gap is not None
        assert swap.probe_gap < tolerance(precision)
        after = await collect(engine, request_for((1, 5, 9), samples=4))
        assert {one.spans[0].version for one in before} == {0}
        assert {one.spans[0].version for one in after} == {1}
    finally:
        await engine.close()


def test_two_learners_write_the_same_version(model: Path, device: torch.device, tmp_path: Path) -> None:
    """Version 0 is the model's own weights, wherever they were meanwhile."""
    here, there = (learner_on(where, model, tmp_path).snapshot() for where in (device, CPU))
    assert here.digest == there.digest
