"""Trains made-up batches and writes down what came of it: alone, or as one rank of several under torchrun.

`python rank_curves.py OUTPUT CASE ...`: rank 0 writes OUTPUT/{case}.json, the figures of each step, and
OUTPUT/{case}.safetensors, the final weights. Several cases in a row: starting Python is what takes time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ais.contracts.trajectory import ScoredGroup
from ais.runtime.process import die_with_parent
from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.reference import load_reference
from ais.trainer.policy import scoring
from ais.trainer.policy.microbatch import Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy, TokenScores
from ais.trainer.ranks.ranks import Ranks, join
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import ComputeSettings, RanksSettings, TrainerSettings
from ais_core.settings import CorrectionSettings, MixingSettings
from benchmarks.models.families import write_family
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import trainer_settings

SAME_BATCH = CorrectionSettings(mixing=MixingSettings(evaluation="same_batch"))
DIRECTORY = TemporaryDirectory()
STEPS = 3
POISONED_STEP = 1


@dataclass(frozen=True)
class Case:
    """One way to train. `samples`: how many there are in each group of a batch."""

    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    samples: tuple[int, ...] = (4, 4, 4, 4, 4)
    model: str = "demo"
    """demo, tied, or experts."""
    logits_at_once: int = scoring.LOGITS_AT_ONCE
    poison: str = ""
    """What is not finite in the last rank's step POISONED_STEP: logprobs or gradient."""


OBJECTIVES = {
    "gspo": Case(settings={"name": "gspo", "updates_per_batch": 2, "aggregation": "sequence_mean"}),
    "cispo": Case(settings={"name": "cispo", "updates_per_batch": 2, "advantage": "rloo"}),
    "dppo": Case(settings={"name": "dppo", "updates_per_batch": 2, "aggregation": "constant_length"}),
    "policy gradient": Case(settings={"name": "policy_gradient", "entropy_coefficient": 0.1}),
    "start": Case(settings={"reference": {"policy": "start", "coefficient": 1.0}, "tokens_per_microbatch": 40}),
    "average": Case(settings={"reference": {"policy": "average", "coefficient": 1.0, "decay": 0.5}}),
    "penalised rewards": Case(settings={"reference": {"policy": "start", "coefficient": 1.0, "place": "reward"}}),
    "adapters": Case(settings={"rank": 4, "reference": {"policy": "average", "coefficient": 1.0, "decay": 0.5}}),
    "adapters in bf16": Case(settings={"rank": 4, "tokens_per_microbatch": 40}, dtype=torch.bfloat16),
}
CASES = {
    **OBJECTIVES,
    "sequence": Case(),
    "small microbatches": Case(settings={"tokens_per_microbatch": 40}),
    "two updates": Case(settings={"updates_per_batch": 2, "tokens_per_microbatch": 40}),
    "current sums": Case(SAME_BATCH, {"tokens_per_microbatch": 40}),
    "m2po": Case(CorrectionSettings(method="m2po"), {"tokens_per_microbatch": 40}),
    "sequence mean": Case(settings={"aggregation": "sequence_mean", "advantage": "reinforce++"}),
    "fewer samples than ranks": Case(samples=(2,)),
    "uneven": Case(samples=(5, 2), settings={"tokens_per_microbatch": 30}),
    "tied embeddings": Case(model="tied"),
    "mixture of experts": Case(model="experts"),
    "head in pieces": Case(model="tied", logits_at_once=22 * 16),
    "straight-through": Case(SAME_BATCH, {"straight_through": True}, torch.bfloat16),
    "straight-through in turns": Case(SAME_BATCH, {"straight_through_every": 2}, torch.bfloat16),
    "bf16": Case(settings={"tokens_per_microbatch": 80}, dtype=torch.bfloat16),
    "float32 head": Case(settings={"float32_head": True}, dtype=torch.bfloat16, logits_at_once=22 * 16),
    "activation checkpointing": Case(settings={"activation_checkpointing": True, "tokens_per_microbatch": 40}),
    "shared prompts": Case(
        settings={"share_prompts": True, "tokens_per_microbatch": 80, "activation_checkpointing": True}
    ),
    "nan in log-probs": Case(poison="logprobs"),
    "infinite gradient": Case(poison="gradient"),
}


@cache
def model_directory(model: str) -> Path:
    """Where the model lies. Call it before ranks meet: transformers lets only the first of them save."""
    directory = Path(DIRECTORY.name) / model
    if model == "experts":
        return write_family("Qwen3-MoE", directory, seed=2)
    model_of(model).save_pretrained(directory)
    return directory


def model_of(kind: str) -> Any:
    if kind == "experts":
        return AutoModelForCausalLM.from_pretrained(model_directory(kind), dtype=torch.float32)
    model = demo_model(seed=2)
    if kind == "tied":
        model.config.tie_word_embeddings = True
        model.tie_weights()
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(0.1)  # of a head's size
    return model


def batches_of(case: Case) -> list[list[ScoredGroup]]:
    """Groups sampled by a policy near the initial one: their log-probs are its own with some noise."""
    policy, noise = Policy(model_of(case.model), torch.float32), torch.Generator().manual_seed(7)
    batches = []
    for step in range(STEPS):
        batch = []
        for index, samples in enumerate(case.samples):
            group = make_group(len(case.samples) * step + index, samples, lengths=(2, 10), version=step)
            (microbatch,) = cut([Sample(group.prompt_token_ids, one) for one in group.trajectories], 10_000)
            with torch.no_grad():
                own = policy.score(microbatch).logprobs
            logs = (own + 0.1 * torch.randn(len(own), generator=noise)).split(microbatch.lengths.tolist())
            by_sample = dict(zip(microbatch.sequences.tolist(), logs, strict=True))
            trajectories = [
                replace(one, behaviour_logprobs=by_sample[number].numpy())
                for number, one in enumerate(group.trajectories)
            ]
            batch.append(replace(group, trajectories=tuple(trajectories)))
        batches.append(batch)
    return batches


def poisoned(policy: Policy, what: str) -> Callable[..., TokenScores]:
    def score(microbatch: Microbatch, *precisions: Any) -> TokenScores:
        scores = Policy.score(policy, microbatch, *precisions)
        if what == "logprobs":
            return replace(scores, logprobs=scores.logprobs * torch.nan)
        scores.logprobs.register_hook(lambda gradient: gradient * torch.inf)
        return scores

    return score


def learner_of(case: Case, ranks: Ranks) -> tuple[Learner, Policy]:
    settings = trainer_settings(warmup_steps=0, learning_rate=1e-3, max_grad_norm=0.5, **case.settings)
    run = RunSettings(steps=100, model=model_directory(case.model))
    policy = load_policy(run.model, settings, ranks, compute_dtype=case.dtype)
    reference = load_reference(run, settings, policy, ranks)
    return Learner(policy, run, settings, case.correction, ranks=ranks, reference=reference), policy


def train(case: Case, ranks: Ranks) -> tuple[list[dict[str, Any]], bytes]:
    """Figures of every step, and the last snapshot, which rank 0 has."""
    scoring.LOGITS_AT_ONCE = case.logits_at_once
    learner, policy = learner_of(case, ranks)
    figures = []
    for step, batch in enumerate(batches_of(case)):
        if case.poison and step == POISONED_STEP and ranks.rank == ranks.size - 1:
            policy.score = poisoned(policy, case.poison)  # type: ignore[method-assign]
        outcome = learner.step(batch, PhaseClock())
        policy.__dict__.pop("score", None)
        figures.append(asdict(outcome.figures))
    return figures, b"".join(file.path.read_bytes() for file in outcome.snapshot.files)


def main() -> None:
    die_with_parent()
    torch.set_num_threads(1)
    output = Path(sys.argv[1])
    for model in sorted({case.model for case in CASES.values()}):
        model_directory(model)
    ranks = join(TrainerSettings(compute=ComputeSettings(device="cpu"), ranks=RanksSettings(collective_seconds=60)))
    for name in sys.argv[2:]:
        figures, weights = train(CASES[name], ranks)
        if ranks.first:
            output.mkdir(exist_ok=True, parents=True)
            (output / f"{name}.json").write_text(json.dumps(figures))
            (output / f"{name}.safetensors").write_bytes(weights)
    ranks.leave()


if __name__ == "__main__":
    main()
