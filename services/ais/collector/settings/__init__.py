"""Settings of the collector: section [collector]."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from ais.collector.settings.rewards import Component, Reward, VerifierName, check_reward, single
from ais.contracts.sampling import SamplingParameters
from ais.runtime.logging import LoggingSettings
from ais.runtime.network.addresses import Host
from ais.runtime.settings import (
    Count,
    Port,
    RedisSettings,
    RunSettings,
    Seconds,
    Section,
)

LEAST_TEMPERATURE = 0.01
"""Below it, the most likely token's probability rounds to 1 and every other one's to 0."""


class ReasoningGymDataset(Section):
    """One dataset of the reasoning-gym library."""

    name: str
    """Its name there, such as chain_sum."""
    weight: float = Field(default=1.0, gt=0.0, le=1e9)
    """How often its items are drawn, relative to those of the other datasets."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Its own parameters, such as {max_terms = 2}. The library sets those that are not given."""

    @model_validator(mode="after")
    def _seed_is_ours(self) -> Self:
        if taken := {"seed", "size"} & self.parameters.keys():
            raise ValueError(f"{' and '.join(sorted(taken))} cannot be set here: prompts are drawn from run.seed")
        return self


class TaskSettings(Section):
    """Where prompts come from and how responses are judged."""

    name: Literal["sort", "jsonl", "reasoning_gym"] = "sort"
    """`sort` makes digit-sorting problems, `jsonl` reads prompts and answers from a file, and `reasoning_gym` makes
    problems with the library of that name, which has about a hundred kinds."""
    digits: int = Field(default=16, ge=1, le=512)
    """Length of a problem of the sort task."""
    file: Path | None = None
    """For `jsonl`: one object a line with the keys `prompt` and `answer`, and optionally `id` and `metadata`."""
    held_out_file: Path | None = None
    """For `jsonl`: the same kind of file for evaluation. Prompts that both files have are not trained on."""
    held_out_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    """For `jsonl` without `held_out_file`: the share of `file` that is kept for evaluation and never trained on. A
    prompt's text alone decides, so rows may come and go without moving another."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """For `jsonl`: prompts too long for the replicas stop the run before it starts, or are left out and counted in the
    log. Problems that are made, as by `reasoning_gym`, are made again until one fits."""
    datasets: tuple[ReasoningGymDataset, ...] = ()
    """For `reasoning_gym`: which of its datasets, such as [{name = "chain_sum", parameters = {max_terms = 2}}]."""
    verifier: VerifierName | None = None
    """`exact_match`: the response is the answer, letter by letter. `regular_expression`: what `pattern` captures is the
    answer, compared as a number where the answer is one. `reasoning_gym`: that library scores what `pattern` captures;
    a JSONL file then needs its metadata. None: `reasoning_gym` for the task of that name, else `exact_match`. All of
    them: docs/rewards.md."""
    pattern: str | None = None
    r"""The last match counts: its first group that took part, or all of it where the pattern has no groups. None:
    `####\s*(\S+)` for `regular_expression`, `<answer>(.*?)</answer>` for `reasoning_gym`."""
    reward: Reward = ()
    """In the place of `verifier`: named components, whose weighted sum is the reward. Each has `verifier` (exact_match,
    regular_expression, numeric, math_verify, multiple_choice, countdown, sudoku, json_schema, reasoning_gym, format,
    overlong, function or service), and optionally `name`, `weight` and that verifier's own keys: docs/rewards.md."""

    @property
    def effective_verifier(self) -> VerifierName:
        """The verifier that judges where `reward` is empty."""
        return self.verifier or ("reasoning_gym" if self.name == "reasoning_gym" else "exact_match")

    @property
    def effective_reward(self) -> tuple[Component, ...]:
        """The components that judge."""
        return self.reward or (single(self.effective_verifier, self.pattern),)

    @model_validator(mode="after")
    def _reward_is_said_once(self) -> Self:
        if self.reward and (self.verifier is not None or self.pattern is not None):
            raise ValueError("verifier and pattern belong to each component of the reward: [[collector.task.reward]]")
        check_reward(self.effective_reward)
        return self

    @model_validator(mode="after")
    def _source_is_given(self) -> Self:
        if self.name == "jsonl" and self.file is None:
            raise ValueError("task jsonl needs collector.task.file, a JSONL file of prompts and answers")
        if self.name == "reasoning_gym" and not self.datasets:
            raise ValueError('task reasoning_gym needs collector.task.datasets, such as [{name = "chain_sum"}]')
        if self.name == "sort" and any(one.verifier == "reasoning_gym" for one in self.effective_reward):
            raise ValueError("the verifier reasoning_gym judges prompts of that library; sort has none of its metadata")
        return self


class JudgingSettings(Section):
    """How responses are judged by verifiers that may take long: patterns and functions of yours, libraries.

    They run in worker processes; the others are quick whatever the response is and run in the collector."""

    workers: int = Field(default=2, ge=1, le=256)
    """Worker processes."""
    seconds: float = Field(default=10.0, gt=0.0, le=3600.0)
    """A judgement that takes longer is stopped, its worker killed and replaced."""
    memory_megabytes: int = Field(default=2048, ge=16, le=1 << 24)
    """Memory that judging may take in a worker beyond what loading the verifier took. (Linux only.)"""
    on_failure: Literal["zero", "again", "end"] = "zero"
    """A response whose judgement is stopped or fails is counted in `ais_collector_judgements_total`. Its component of
    the reward is then 0, or its group starts again, or the run ends."""


MOST_REDRAWS = 16
"""Prompts of the reserve that each ordinal has. Another number would be another order of prompts."""


class DynamicSamplingSettings(Section):
    """Groups whose rewards are all equal teach nothing: others take their places (DAPO, arXiv 2503.14476)."""

    redraws: int = Field(default=0, ge=0, le=MOST_REDRAWS)
    """How often a group whose rewards are all equal is thrown away and another prompt drawn from the reserve. 0: never.
    The last one is trained on whatever its rewards."""
    component: str = ""
    """The component of the reward whose scores must differ, such as the one of the answer where another punishes
    length. Empty: the rewards."""


RESERVED_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)
"""Arguments of transformers' apply_chat_template that are not the template's."""


class PromptSettings(Section):
    """How a problem's text becomes the prompt that is tokenised."""

    use_chat_template: bool = True
    """Puts the text into the tokenizer's chat template, as a user's message, where the tokenizer has one."""
    system: str = ""
    """System message of the chat. Empty: none, though some templates then add one of their own."""
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    """What else the chat template is given, such as {enable_thinking = false} for Qwen3; `tools` and `documents` as
    transformers' apply_chat_template takes them."""

    @model_validator(mode="after")
    def _chat_settings_have_a_chat(self) -> Self:
        if not self.use_chat_template and (self.system or self.template_arguments):
            raise ValueError("system and template_arguments need use_chat_template = true")
        if taken := sorted(RESERVED_ARGUMENTS & self.template_arguments.keys()):
            raise ValueError(f"template_arguments cannot set {', '.join(taken)}: the collector does")
        return self


class CollectorSettings(Section):
    """How prompts become scored groups."""

    task: TaskSettings = TaskSettings()
    """Where prompts come from and how responses are judged."""
    judging: JudgingSettings = JudgingSettings()
    """How responses are judged by verifiers that may take long."""
    dynamic_sampling: DynamicSamplingSettings = DynamicSamplingSettings()
    """Groups whose rewards are all equal teach nothing: others take their places."""
    prompt: PromptSettings = PromptSettings()
    """How a problem's text becomes the prompt that is tokenised."""
    sampling: SamplingParameters = SamplingParameters()
    """How responses are sampled. Truncated sampling (top_p, top_k) is refused: it biases the importance ratio."""
    group_deadline_seconds: Seconds = 120.0
    """A group not finished by then is started again, on another replica where there is one."""
    max_attempts: Count = 50
    """A group that has come to nothing this often, by failed calls or refusals of the trainer, ends the collector.
    Calls to replicas that are full, too slow or leaving do not count."""
    stall_seconds: Seconds = 30.0
    """When nothing has moved for this long, /readyz and the log say what is waited for; where nothing can change it,
    the collector ends with the reason. A running call may take `group_deadline_seconds`, a training step three times
    as long as the longest so far."""
    queue_factor: float = Field(default=1.5, ge=1.0, le=1000.0)
    """How many unfinished sequences a replica may have, relative to its slots. Above 1, a slot that becomes free is
    filled at once, without asking the collector."""
    http_host: Host = "127.0.0.1"
    """Address the metrics and health endpoints listen on."""
    http_port: Port = 0
    """Port of the metrics and health endpoints; 0 takes a free one and logs it."""

    @model_validator(mode="after")
    def _component_is_there(self) -> Self:
        wanted = self.dynamic_sampling.component.partition(".")[0]
        known = [component.label for component in self.task.effective_reward]
        if wanted and wanted not in known:
            raise ValueError(
                f"dynamic_sampling.component: the reward has no component {wanted}; it has {', '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _sampling_can_be_trained_on(self) -> Self:
        if self.sampling.top_p < 1.0 or self.sampling.top_k > 0:
            raise ValueError(
                "truncated sampling (sampling.top_p < 1 or sampling.top_k > 0) is refused: the trainer scores over the "
                "whole vocabulary, and the importance ratio would be biased. Set top_p = 1 and top_k = 0."
            )
        if self.sampling.seed is not None:
            raise ValueError("sampling.seed is drawn from run.seed for each group; set run.seed instead")
        if self.sampling.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"sampling.temperature = {self.sampling.temperature:g} leaves one token possible and no log-probs to "
                f"train on; set it to {LEAST_TEMPERATURE:g} or more, usually to 1"
            )
        return self


class ReplicaRoom(Section):
    """What the collector reads of the replicas' section."""

    model_config = ConfigDict(extra="ignore")

    max_model_len: int | None = None
    """As rollout.max_model_len; None: the file does not say."""


class CollectorProcessSettings(Section):
    """All that a collector process reads from the settings file."""

    rollout: ReplicaRoom = ReplicaRoom()
    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    collector: CollectorSettings = CollectorSettings()
    logging: LoggingSettings = LoggingSettings()
