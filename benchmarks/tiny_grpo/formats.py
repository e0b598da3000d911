"""How far each number format takes the warm-started policy from itself, before any training."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tokenizers import Tokenizer

from ais.collector.prompts.prompts import Split
from ais.collector.settings import TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.sampling import SamplingParameters
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.trainer.learning.batch import prepare
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import ComputeSettings, TrainerSettings
from ais_core.corrections import build
from ais_core.diagnostics import summarize
from ais_core.ratios import SequenceBatch, log_ratio
from ais_core.settings import CorrectionSettings
from benchmarks.tiny_grpo.experiment import PRECISIONS
from benchmarks.tiny_grpo.sampler import Sampler

PROMPTS = 1024
DIGITS = 16


@torch.no_grad()
def measure(model: Path) -> list[dict[str, Any]]:
    """Reward and mismatch of the model in `model` at every precision, one sample to each of 1,024 prompts."""
    policy, architecture = Policy.load(model, "cpu"), read_architecture(model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    task = open_task(TaskSettings(digits=DIGITS), 0, Split.HELD_OUT)
    prompts = [task.prompt(ordinal) for ordinal in range(PROMPTS)]
    sampling = SamplingParameters(max_new_tokens=DIGITS + 4, seed=0)
    correction = build(CorrectionSettings(method="tis", level="sequence"))
    found = []
    for name, precision in PRECISIONS.items():
        sampler = Sampler(architecture, tokenizer, precision, positions=2 * DIGITS + 8)
        sampler.serve(policy.masters, 0)
        groups = sampler.sample(prompts, 1, sampling)
        settings = TrainerSettings(compute=ComputeSettings(tokens_per_microbatch=1 << 30))
        batch = prepare(groups, 0, settings, Ranks(policy.device))
        (microbatch,) = batch.microbatches
        own, imitated = (policy.score(microbatch, at).logprobs for at in (None, precision))
        ratios = SequenceBatch.packed(log_ratio(own, microbatch.behaviour_logprobs), microbatch.lengths)
        diagnostics = summarize(correction.measure(ratios))
        found.append(
            {
                "precision": name,
                "reward": mean(reward for group in groups for reward in group.rewards),
                "D": diagnostics.mean_abs_log_ratio,
                "k3": diagnostics.k3,
                "token_ess": diagnostics.token_ess_ratio,
                "sequence_ess": diagnostics.sequence_ess_ratio,
                "sequence_sd": diagnostics.sequence_log_ratio_sd,
                "imitation_D": float((imitated - microbatch.behaviour_logprobs).abs().mean()),
            }
        )
    return found
