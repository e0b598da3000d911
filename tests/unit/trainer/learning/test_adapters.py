"""Training by adapters: what is trained, what is sent, what peft makes of the files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.reference import load_reference
from ais.trainer.policy.microbatch import Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.deltas import Origin, delta
from ais.trainer.weights.snapshot import Staging
from ais_core.settings import CorrectionSettings, MixingSettings
from benchmarks.models.families import write_family
from tests.support.tiny_models import VOCABULARY, random_model
from tests.support.trainer_groups import make_group

pytest.importorskip("peft", reason="needs the extra lora")

GROUPS = [make_group(ordinal, lengths=(2, 10)) for ordinal in range(6)]
RANKS = Ranks(torch.device("cpu"))


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    random_model(request.param, seed=1).save_pretrained(directory)
    return directory


def learner_of(model: Path, staging: Path | None = None, reference: str = "none", **lora: Any) -> Learner:
    settings = TrainerSettings.model_validate(
        {
            "lora": {"rank": 4, **lora},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0},
            "objective": {"reference": {"policy": reference, "coefficient": 0.5, "decay": 0.5}},
            "compute": {"device": "cpu"},
        }
    )
    run = RunSettings(model=model, steps=10)
    policy = load_policy(model, settings, RANKS, seed=0)
    return Learner(
        policy,
        run,
        settings,
        CorrectionSettings(method="none", mixing=MixingSettings(mismatch_limit=math.inf)),
        Staging(staging) if staging else None,
        RANKS,
        load_reference(run, settings, policy, RANKS),
    )


def microbatch_of(groups: list[Any]) -> Microbatch:
    (one,) = cut(
        [Sample(group.prompt_token_ids, trajectory) for group in groups for trajectory in group.trajectories], 10_000
    )
    return one


def step(learner: Learner) -> Any:
    return learner.step(GROUPS, PhaseClock())


def test_only_adapters_are_trained_over_frozen_bf16_weights(model: Path) -> None:
    policy = learner_of(model)._policy
    assert all(weight.dtype == torch.bfloat16 and not weight.requires_grad for weight in policy.model.parameters())
    assert {name.rsplit(".", 2)[1] for name in policy.masters} == {"lora_A", "lora_B"}
    assert all(master.dtype == torch.float32 for master in policy.masters.values())
    assert set(policy.shapes) == set(Policy.load(model).masters)


def test_before_the_first_step_the_policy_is_the_model_to_the_bit(model: Path) -> None:
    microbatch = microbatch_of(GROUPS)
    with torch.no_grad():
        adapted, plain = (
            policy.score(microbatch).logprobs for policy in (learner_of(model)._policy, Policy.load(model))
        )
    assert torch.equal(adapted, plain)


def test_what_is_sent_computes_what_is_trained_to_the_bit(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model, tmp_path)
    snapshot = [step(learner) for _ in range(2)][-1].snapshot
    served = Policy.load(model)
    served.model.load_state_dict(
        {name: weight.float() for name, weight in load_file(snapshot.files[0].path).items()}, strict=False
    )
    microbatch = microbatch_of(GROUPS)
    with torch.no_grad():
        assert torch.equal(learner._policy.score(microbatch).logprobs, served.score(microbatch).logprobs)


def test_peft_loads_the_adapter_and_merges_to_the_weights_that_are_sent(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    learner = learner_of(model, tmp_path)
    snapshot = [step(learner) for _ in range(3)][-1].snapshot
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, snapshot.adapter).merge_and_unload()
    sent = load_file(snapshot.files[0].path)
    changed = 0
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(sent[name], weight.detach().bfloat16(), rtol=0.008, atol=1e-6, msg=name)
        changed += not torch.equal(sent[name], load_file(model / "model.safetensors")[name])
    assert changed == 2 * 7


def test_adapters_have_the_gradients_of_pefts_own_forward_pass(model: Path) -> None:
    from peft import LoraConfig, get_peft_model

    learner = learner_of(model)
    step(learner)
    policy = learner._policy
    assert policy.adapters
    policy.scoring.compute_dtype = torch.float32
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=list(learner._settings.lora.target_modules))
    own = get_peft_model(base, config).eval()
    parameters = {name.replace(".default", ""): value for name, value in own.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, master in policy.masters.items():
            parameters[name].copy_(master)
    microbatch = microbatch_of(GROUPS)
    policy.score(microbatch).logprobs.sum().backward()
    logits = own(input_ids=microbatch.input_ids, use_cache=False).logits[microbatch.rows, microbatch.columns]
    logits.log_softmax(-1).gather(1, microbatch.targets[:, None]).sum().backward()
    for name, master in policy.masters.items():
        assert master.grad is not None
        torch.testing.assert_close(master.grad, parameters[name].grad, rtol=1e-3, atol=1e-4)


def test_a_delta_has_only_what_the_adapters_touch(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model, tmp_path, target_modules=("q_proj",))
    first, second = step(learner).snapshot, step(learner).snapshot
    parcel = delta(first, second, Origin(), threads=1)
    touched = 2 * sum(shape.numel() for name, shape in learner._policy.shapes.items() if "q_proj" in name)
    assert 0 < parcel.offer.sent_bytes < touched + 2000
    assert second.size > 4 * touched


def test_training_goes_on_to_the_bit_after_a_resume(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model, reference="average")
    step(learner)
    learner.save(tmp_path / "training").result()
    memory = learner.memory
    expected = step(learner).snapshot.digest
    resumed = learner_of(model, reference="average")
    resumed.resume(memory, tmp_path / "training")
    assert step(resumed).snapshot.digest == expected


def test_another_base_is_refused_at_a_resume(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model)
    learner.save(tmp_path / "training").result()
    memory = replace(learner.memory, frozen={"run.model": "blake3:0"})
    with pytest.raises(UnavailableError, match="are not those that the run was begun with"):
        learner_of(model).resume(memory, tmp_path / "training")


@pytest.mark.parametrize("reference", ["start", "average"])
def test_a_reference_of_adapters_takes_no_second_model(reference: str, model: Path) -> None:
    learner = learner_of(model, reference=reference)
    policy = learner._reference._policy  # type: ignore[union-attr]
    assert policy is learner._policy
    assert step(learner).figures.reference_kl == 0.0
    assert step(learner).figures.reference_kl > 0.0


def test_layers_that_the_model_has_not_are_refused(model: Path) -> None:
    with pytest.raises(UnavailableError, match="trainer.lora.target_modules"):
        learner_of(model, target_modules=("no_such_proj",))


def test_the_groups_of_these_tests_fit_the_models() -> None:
    assert max(int(one.token_ids.max()) for group in GROUPS for one in group.trajectories) < VOCABULARY


def test_experts_get_no_adapters_and_the_other_layers_do(tmp_path: Path) -> None:
    """transformers holds a mixture's experts as one tensor, which peft adapts otherwise than a layer."""
    mixture = write_family("Qwen3-MoE", tmp_path / "mixture")
    with pytest.raises(UnavailableError, match="down_proj, gate_up_proj of this model are experts"):
        learner_of(mixture)
    policy = learner_of(mixture, target_modules=["q_proj", "o_proj"])._policy
    assert {name.split(".")[-3] for name in policy.masters} == {"q_proj", "o_proj"}
    assert "model.layers.0.mlp.experts.0.down_proj.weight" in policy.shapes
