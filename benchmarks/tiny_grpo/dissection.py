"""One training, dissected: what each batch's gradient is made of, and how much of it is signal.

The loop is that of `training`, with two additions: the gradient comes from two halves of the batch, whose cosine says
how much of it would be there again in another batch, and the tokens are told apart by what they did to the answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from ais.collector.prompts.prompts import Split
from ais.collector.settings import TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import ScoredGroup
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.trainer.learning.batch import prepare
from ais.trainer.learning.schedule import learning_rate
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais_core import objectives
from ais_core.centring import centred_scores
from ais_core.corrections import Correction, build
from ais_core.objectives import Normalizer
from ais_core.plan import Plan
from ais_core.ratios import SequenceBatch, log_ratio
from ais_core.settings import CorrectionSettings
from benchmarks.tiny_grpo.experiment import PRECISIONS
from benchmarks.tiny_grpo.sampler import Sampler
from benchmarks.tiny_grpo.training import GROUPS, SAMPLES, SETTINGS, Examiner

Pace = Literal["constant", "signal"]
Errors = Literal["method", "uncorrected", "ratio"]
CLASSES = ("right", "first_error", "after_error")
MOST_DRAWS = 4
"""Batches of prompts drawn at most for one step when only groups with a signal are wanted."""


@dataclass(frozen=True)
class Study:
    """One dissected run: everything that its result depends on but the code and the model."""

    method: str
    seed: int
    precision: str = "e5m2"
    task: str = "sort48"
    steps: int = 80
    rate: float = 1.0
    """Factor of the learning rate."""
    pace: Pace = "constant"
    """`signal` multiplies the learning rate by the share of the groups whose rewards differ."""
    beta2: float = 0.95
    """Adam's memory of the gradient's size."""
    errors: Errors = "method"
    """The weight of the first wrong token of an answer: the method's, 1, or min(r, 2). The others keep the method's."""
    centred: bool = False
    """Whether the mean of the scores under the sampling policy is taken away (`ais_core.centring`)."""
    only_informative: bool = False
    """Whether prompts are drawn until as many groups have rewards that differ as a batch has."""

    @property
    def key(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a batch: its gradient, and what its tokens were."""

    gradient: torch.Tensor
    """float32 (parameters,)."""
    tokens: list[tuple[float, ...]]
    """By class of `CLASSES`: tokens, sums of the ratio, of the weight, and of the length of the gradient in logits."""
    log_ratio: torch.Tensor
    """(tokens,) float32."""
    signed: torch.Tensor
    """(tokens,) float32: advantages."""
    entropy: float
    drift: float
    """Length of the mean of h (onehot - pi) over tokens: the push in logits that knows no reward."""


def right_answers(groups: Sequence[ScoredGroup], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Token ids of the right answer to each trajectory, in order; sorting tasks only."""
    for group in groups:
        digits = sorted(tokenizer.decode(group.prompt_token_ids.tolist()).strip("=").replace(" ", ""))
        answer = tokenizer.encode("".join(digits), add_special_tokens=False).ids
        yield from [answer] * len(group.trajectories)


def classes(microbatch: Microbatch, answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """(tokens,) int64, index into `CLASSES`: on the right way, the first step off it, and all that follows."""
    found = []
    for tokens, index in zip(
        torch.split(microbatch.targets, microbatch.lengths.tolist()), microbatch.sequences.tolist(), strict=True
    ):
        answer = torch.tensor([*answers[index], *[-1] * len(tokens)])[: len(tokens)]
        wrong = tokens != answer
        wrong[len(answers[index]) :] = False  # what ends the answer
        after = wrong.cumsum(0)
        found.append(torch.where(after == 0, 0, torch.where((after == 1) & wrong, 1, 2)))
    return torch.cat(found)


def dissect(
    policy: Policy,
    microbatch: Microbatch,
    advantages: torch.Tensor,
    answers: Sequence[Sequence[int]],
    correction: Correction,
    plan: Plan,
    study: Study,
) -> Half:
    """The gradient of a batch and its make-up.

    `advantages` (R,) in the microbatch's order, `answers` the right ones of the whole batch, `plan` its own.
    """
    kinds = classes(microbatch, answers)
    distribution = policy.distribution(microbatch)
    chosen = distribution.gather(1, microbatch.targets[:, None]).squeeze(1)
    logs = log_ratio(chosen, microbatch.behaviour_logprobs)
    batch = SequenceBatch.packed(logs, microbatch.lengths)
    weights = correction.weights(batch, advantages, plan)
    if study.errors != "method":
        first = kinds == CLASSES.index("first_error")
        weights[first] = 1.0 if study.errors == "uncorrected" else logs[first].exp().clamp(max=2.0)
    per_token = advantages[microbatch.rows]
    scores = chosen
    if study.centred:
        scores = centred_scores(distribution, imitated(policy, microbatch), microbatch.targets)
    losses = objectives.policy_gradient(scores, per_token, weights)
    normaliser = Normalizer(tokens=logs.numel(), sequences=len(advantages))
    loss = objectives.aggregate(losses, microbatch.lengths, "token_mean", normaliser)
    gradient = torch.autograd.grad(loss, list(policy.masters.values()))
    with torch.no_grad():
        probabilities = distribution.exp()
        score = -probabilities
        score[torch.arange(len(score)), microbatch.targets] += 1.0
        size = (per_token.abs() * weights) * score.norm(dim=1)
        table = torch.stack([torch.ones_like(logs), logs.exp(), weights, size])
        rows = [tuple(table[:, kinds == kind].sum(1).tolist()) for kind in range(len(CLASSES))]
        entropy = float(-(probabilities * distribution).sum(1).mean())
        drift = float((weights[:, None] * score).mean(0).norm())
    flat = torch.cat([part.reshape(-1) for part in gradient])
    return Half(flat, rows, logs, per_token, entropy, drift)


@torch.no_grad()
def imitated(policy: Policy, microbatch: Microbatch) -> torch.Tensor:
    """(T, V) log-probs of the policy that sampled, as its engine computes them.

    The engine's arithmetic starts from BF16, whatever the trainer computes in.
    """
    own, policy.scoring.compute_dtype = policy.scoring.compute_dtype, torch.bfloat16
    try:
        return policy.distribution(microbatch, microbatch.precision)
    finally:
        policy.scoring.compute_dtype = own


def halves(microbatch: Microbatch) -> list[Microbatch]:
    """The batch by even and odd prompts; a half may be of another number of sequences."""
    odd = (microbatch.sequences // SAMPLES) % 2
    return [_part(microbatch, odd == side) for side in (0, 1)]


def run(
    study: Study, settings: CorrectionSettings, model: Path, compute: torch.dtype, keep: Path | None = None
) -> dict[str, Any]:
    """Trains once; the record has a line for each step and one for each evaluation.

    The trainer multiplies in `compute`. With `keep` the weights go to that directory at each evaluation.
    """
    correction = build(settings)
    begun = time.process_time()
    precision, digits = PRECISIONS[study.precision], int(study.task.removeprefix("sort"))
    policy, architecture = Policy.load(model, "cpu"), read_architecture(model)
    policy.scoring.compute_dtype = compute
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    task = open_task(TaskSettings(digits=digits), study.seed, Split.TRAIN)
    held_out = open_task(TaskSettings(digits=digits), 1, Split.HELD_OUT)
    new_tokens = digits + 4

    def sampler(at: Precision) -> Sampler:
        return Sampler(architecture, tokenizer, at, positions=digits + 2 + new_tokens)

    rollouts = sampler(precision)
    examiners = {
        "p": Examiner(sampler(PRECISIONS["bf16"]), held_out, new_tokens),
        "q": Examiner(sampler(precision), held_out, new_tokens),
    }
    masters, adam = list(policy.masters.values()), SETTINGS.optimizer
    optimizer = torch.optim.AdamW(masters, betas=(adam.beta1, study.beta2), weight_decay=0.0)
    steps: list[dict[str, Any]] = []
    curve: list[dict[str, float]] = []
    asked = 0
    for step in range(study.steps):
        rollouts.serve(policy.masters, step)
        groups: list[ScoredGroup] = []
        drawn = 0
        rewards: list[float] = []
        while len(groups) < GROUPS and drawn < (MOST_DRAWS if study.only_informative else 1):
            prompts = [task.prompt(asked + index) for index in range(GROUPS)]
            seed = (study.seed + 1) * 1_000_003 + asked
            found = rollouts.sample(prompts, SAMPLES, SamplingParameters(max_new_tokens=new_tokens, seed=seed))
            asked, drawn = asked + GROUPS, drawn + 1
            rewards += [reward for group in found for reward in group.rewards]
            groups += [g for g in found if len(set(g.rewards)) > 1] if study.only_informative else found
        groups = groups[:GROUPS]
        record: dict[str, Any] = {"step": step, "reward": mean(rewards), "drawn": drawn, "groups": len(groups)}
        if groups:
            batch = prepare(groups, step, SETTINGS, Ranks(policy.device))
            (whole,) = batch.microbatches
            answers = list(right_answers(groups, tokenizer))
            plan = _plan(policy, whole, batch.advantages, correction)
            parts = [part for part in halves(whole) if len(part.lengths)]
            cut = [
                dissect(policy, part, batch.advantages[part.sequences], answers, correction, plan, study)
                for part in parts
            ]
            gradient = torch.stack([half.gradient for half in cut]).mean(0)
            norm = float(gradient.norm())
            informative = 1.0 - batch.zero_variance_share
            record |= {"informative": informative, "norm": norm, "alpha": plan.alpha, **_made_of(cut)}
            rate = learning_rate(adam, step, study.steps) * study.rate
            rate *= informative if study.pace == "signal" else 1.0
            gradient *= min(1.0, adam.max_grad_norm / (norm + 1e-6))
            for master, piece in zip(masters, torch.split(gradient, [m.numel() for m in masters]), strict=True):
                master.grad = piece.view_as(master)
            before = torch.cat([master.detach().reshape(-1) for master in masters])
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            after = torch.cat([master.detach().reshape(-1) for master in masters])
            record["moved"] = float((after - before).norm())
        steps.append(record)
        if (step + 1) % 10 == 0:
            scores = {name: examiner.score(policy, 192) for name, examiner in examiners.items()}
            curve.append({"step": step + 1, **scores})
            if keep is not None:
                save_file(
                    {name: weight.detach() for name, weight in policy.masters.items()}, keep / f"{step + 1}.safetensors"
                )
    return {
        **study.key,
        "compute": str(compute),
        "curve": curve,
        "steps": steps,
        "cpu_seconds": time.process_time() - begun,
    }


def _plan(policy: Policy, microbatch: Microbatch, advantages: torch.Tensor, correction: Correction) -> Plan:
    """The plan of a whole batch; a method that decides nothing by the batch needs no pass over it."""
    if not correction.needs_current_sums(None):
        return correction.recall(None)
    with torch.no_grad():
        logs = log_ratio(policy.score(microbatch).logprobs, microbatch.behaviour_logprobs)
    batch = SequenceBatch.packed(logs, microbatch.lengths)
    return correction.plan(correction.measure(batch, advantages[microbatch.sequences]), None)[0]


def _made_of(cut: Sequence[Half]) -> dict[str, Any]:
    """What the tokens of all halves were, together."""
    logs, signed = (torch.cat([getattr(half, name) for half in cut]) for name in ("log_ratio", "signed"))
    sums = torch.tensor([half.tokens for half in cut]).sum(0)
    total = sums[:, 3].sum().clamp(min=1e-12)
    found: dict[str, Any] = {
        "D": float(logs.abs().mean()),
        "log_ratio_where_bad": _mean(logs[signed < 0]),
        "log_ratio_where_good": _mean(logs[signed > 0]),
        "entropy": mean(half.entropy for half in cut),
        "drift": mean(half.drift for half in cut),
        "classes": {
            name: {
                "tokens": float(row[0]),
                "ratio": float(row[1] / row[0].clamp(min=1)),
                "weight": float(row[2] / row[0].clamp(min=1)),
                "share": float(row[3] / total),
            }
            for name, row in zip(CLASSES, sums, strict=True)
        },
    }
    if len(cut) == 2:
        first, second = (half.gradient for half in cut)
        found["cosine"] = float(first @ second / (first.norm() * second.norm()).clamp(min=1e-12))
    return found


def _mean(values: torch.Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None


def _part(microbatch: Microbatch, chosen: torch.Tensor) -> Microbatch:
    """The sequences chosen (R,) bool of a microbatch."""
    rows = microbatch.rows
    tokens = chosen[rows]
    place = chosen.cumsum(0) - 1
    per_token = {
        name: getattr(microbatch, name)[tokens]
        for name in ("columns", "targets", "behaviour_logprobs", "versions", "temperature")
    }
    per_sequence = {name: getattr(microbatch, name)[chosen] for name in ("input_ids", "sequences", "lengths")}
    rows = place[rows[tokens]]
    return replace(microbatch, rows=rows, input_rows=rows, **per_token, **per_sequence)
