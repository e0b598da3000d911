"""What a wrong setting is told: its key, what is wrong with it, and what to write instead."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from datetime import date, time
from typing import Any, get_type_hints

from pydantic import BaseModel

from ais.runtime.network.redis_url import without_passwords

LONGEST = 80
"""Characters of a value or key that a message repeats."""
ALIKE = 0.65
"""How alike two keys are, at least, for one to be suggested for the other (difflib's ratio)."""

_NO_CRITIC = "there is no critic: advantages come from the group (trainer.objective.advantage)"
_NO_TRACKER = "figures go to steps.jsonl, to the report and to Prometheus (/metrics of each service)"
NOT_SUPPORTED: Mapping[str, str] = {
    "wandb": _NO_TRACKER,
    "tensorboard": _NO_TRACKER,
    "mlflow": _NO_TRACKER,
    "swanlab": _NO_TRACKER,
    "report_to": _NO_TRACKER,
    "critic": _NO_CRITIC,
    "value_model": _NO_CRITIC,
    "gae_lambda": _NO_CRITIC,
    "gamma": _NO_CRITIC,
    "reward_model": "rewards come from verifiers (collector.task.verifier)",
    "reward_funcs": "rewards come from verifiers (collector.task.verifier)",
    "eval_every_steps": "checkpoints are evaluated after training (launcher.evaluation_prompts)",
    "repetition_penalty": "responses are sampled from the policy itself; anything else biases the importance ratio",
    "min_p": "responses are sampled from the policy itself; anything else biases the importance ratio",
}
"""What other trainers have and this one does not: the last part of a key, and what there is."""

ALSO_KNOWN_AS: Mapping[str, str] = {
    "lr": "trainer.optimizer.learning_rate",
    "batch_size": "run.groups_per_batch",
    "train_batch_size": "run.groups_per_batch",
    "num_generations": "run.samples_per_group",
    "group_size": "run.samples_per_group",
    "rollout_n": "run.samples_per_group",
    "max_steps": "run.steps",
    "epochs": "run.steps",
    "num_train_epochs": "run.steps",
    "micro_batch_size": "trainer.compute.tokens_per_microbatch",
    "gradient_accumulation_steps": "trainer.compute.tokens_per_microbatch",
    "gradient_checkpointing": "trainer.compute.activation_checkpointing",
    "max_tokens": "collector.sampling.max_new_tokens",
    "max_completion_length": "collector.sampling.max_new_tokens",
    "gpu_memory_utilization": "rollout.vllm.memory_fraction",
    "num_gpus": "trainer.ranks.count",
    "model_name_or_path": "run.model",
    "output_dir": "run.directory",
    "train_files": "collector.task.file",
    "val_files": "collector.task.held_out_file",
    "dataset_name": "collector.task.dataset",
    "prompt_key": "collector.task.columns.prompt",
    "max_prompt_length": "rollout.max_model_len",
    "save_steps": "trainer.checkpoints.every_steps",
    "loss_type": "trainer.objective.aggregation",
    "loss_agg_mode": "trainer.objective.aggregation",
    "policy_loss": "trainer.objective.name",
    "loss_mode": "trainer.objective.name",
    "adv_estimator": "trainer.objective.advantage",
    "epsilon": "trainer.objective.ppo_clip.clip_low",
    "epsilon_high": "trainer.objective.ppo_clip.clip_high",
    "clip_ratio_low": "trainer.objective.ppo_clip.clip_low",
    "clip_ratio_high": "trainer.objective.ppo_clip.clip_high",
    "clip_ratio_c": "trainer.objective.ppo_clip.dual_clip",
    "reference_kl": "trainer.objective.reference.policy",
    "use_kl_loss": "trainer.objective.reference.policy",
    "reference_model": "trainer.objective.reference.directory",
    "ref_model": "trainer.objective.reference.directory",
    "beta": "trainer.objective.reference.coefficient",
    "kl_coef": "trainer.objective.reference.coefficient",
    "kl_beta": "trainer.objective.reference.coefficient",
    "kl_loss_coef": "trainer.objective.reference.coefficient",
    "kl_penalty": "trainer.objective.reference.estimator",
    "kl_loss_type": "trainer.objective.reference.estimator",
    "entropy_coef": "trainer.objective.entropy_coefficient",
    "entropy_coeff": "trainer.objective.entropy_coefficient",
    "entropy_bonus": "trainer.objective.entropy_coefficient",
    "lora_rank": "trainer.lora.rank",
    "lora_r": "trainer.lora.rank",
    "peft": "trainer.lora.rank",
    "lora_alpha": "trainer.lora.alpha",
    "lora_target_modules": "trainer.lora.target_modules",
}
"""Names of other trainers for what is called differently here."""


def explain(model: type[BaseModel], details: Any) -> str:
    """One of pydantic's errors as a sentence that names the dotted key."""
    key = ".".join(str(part) for part in details["loc"])
    if place := _new_place(model, key):
        return f"setting {key} has moved: it is {place} now"
    if details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown setting {shown(key)}{_hint(model, key)} (`ais config` lists all)"
    if "error" in (context := details.get("ctx", {})):  # said by a validator of ours
        return f"setting {key}: {context['error']}" if key else str(context["error"])
    message = f"setting {key}: {details['msg'][:1].lower()}{details['msg'][1:]}"
    if isinstance(value := details["input"], str | bool | int | float | date | time):
        message += f", got {shown(value)}"
    if details["type"] in ("string_type", "path_type") and not isinstance(value, str):
        message += "; text stands in quotes in a file"
    return message


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every setting below `model`."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        nested = _fields_of(field.annotation)
        keys += [f"{prefix}{name}.{key}" for key in nested] if nested else [f"{prefix}{name}"]
    return keys


def shown(value: object) -> str:
    """A value as a message repeats it: short, and on one line."""
    try:
        text = without_passwords(str(value))  # before it is cut
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    text = ascii(text) if isinstance(value, str) and not value.isprintable() else text
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def _hint(model: type[BaseModel], key: str) -> str:
    known = known_keys(model)
    leaf = key.rpartition(".")[2]
    for part in key.split("."):
        if part in NOT_SUPPORTED:
            return f": {part} is not supported, {NOT_SUPPORTED[part]}"
    if leaf in ALSO_KNOWN_AS and ALSO_KNOWN_AS[leaf] in known:
        return f"; here it is called {ALSO_KNOWN_AS[leaf]}"
    if homes := [candidate for candidate in known if candidate.rpartition(".")[2] == leaf]:
        return f"; did you mean {' or '.join(homes[:3])}?"
    sections = sorted({candidate.rpartition(".")[0] for candidate in known} - {""})
    nearest = difflib.get_close_matches(key[:LONGEST], known + sections, n=1, cutoff=ALIKE)
    return f"; did you mean {nearest[0]}?" if nearest and _leaves_alike(leaf, nearest[0]) else ""


def _leaves_alike(leaf: str, candidate: str) -> bool:
    """A shared section alone makes no two keys alike."""
    return difflib.SequenceMatcher(None, leaf[:LONGEST], candidate.rpartition(".")[2]).ratio() >= ALIKE


def _fields_of(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return known_keys(annotation)
    if not isinstance(annotation, type) or not dataclasses.is_dataclass(annotation):
        return []
    types = get_type_hints(annotation)
    keys: list[str] = []
    for field in dataclasses.fields(annotation):
        nested = _fields_of(types[field.name])
        keys += [f"{field.name}.{key}" for key in nested] or [field.name]
    return keys


def _new_place(model: type[BaseModel], key: str) -> str:
    """Where a key of an earlier release is now; empty for a key that never was another one."""
    section, _, name = key.partition(".")
    field = model.model_fields.get(section)
    moved: Mapping[str, str] = getattr(field.annotation, "moved", {}) if field else {}
    return f"{section}.{moved[name]}" if name in moved else ""
