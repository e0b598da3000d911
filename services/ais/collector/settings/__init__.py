"""Settings of the collector: section [collector]."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from ais.collector.settings.sources import MixtureSource as MixtureSource
from ais.collector.settings.sources import ReasoningGymDataset as ReasoningGymDataset
from ais.collector.settings.sources import SourceSettings as SourceSettings
from ais.collector.settings.sources import TaskSettings as TaskSettings
from ais.contracts.evaluation.settings import EvaluationSettings
from ais.contracts.sampling import SamplingParameters
from ais.runtime.logging import LoggingSettings
from ais.runtime.network.addresses import Host
from ais.runtime.security.settings import SecuritySettings
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
    chat_template: Path | None = None
    """A Jinja file in the place of the tokenizer's chat template, for a tokenizer that has none or another one."""
    system: str = ""
    """System message of the chat. Empty: none, though some templates then add one of their own."""
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    """What else the chat template is given, such as {enable_thinking = false} for Qwen3; `tools` and `documents` as
    transformers' apply_chat_template takes them."""

    @model_validator(mode="after")
    def _chat_settings_have_a_chat(self) -> Self:
        if not self.use_chat_template and (self.system or self.template_arguments or self.chat_template):
            raise ValueError("chat_template, system and template_arguments need use_chat_template = true")
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
    """How responses are sampled. Where that is truncated (top_p, top_k, min_p), replicas tell which tokens were kept,
    and the trainer scores over these. vLLM tells it where top_k is at most 128, or the vocabulary at most 160."""
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
    agents_host: Host = "127.0.0.1"
    """Address where agents get episodes, for environment.name = outside. They show agent.token (docs/security.md)."""
    agents_port: Port = 0
    """Port for agents; 0 takes a free one and logs it."""

    @model_validator(mode="after")
    def _component_is_there(self) -> Self:
        wanted = self.dynamic_sampling.component.partition(".")[0]
        for source in self.task.each_source:
            known = source.component_labels
            if wanted and wanted not in known:
                raise ValueError(
                    f"dynamic_sampling.component: the reward of {source.effective_label} has no component {wanted}; it "
                    f"has {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _sampling_can_be_trained_on(self) -> Self:
        if self.sampling.top_k == 1 or self.sampling.min_p == 1.0:
            raise ValueError(
                "sampling.top_k = 1 and sampling.min_p = 1 leave one token possible, which teaches nothing: set top_k "
                "to 0 or to 2 or more, and min_p below 1"
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
    security: SecuritySettings = SecuritySettings()
    collector: CollectorSettings = CollectorSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    logging: LoggingSettings = LoggingSettings()
