"""Settings of the collector: section [collector]."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.contracts.sampling import SamplingParameters
from services.runtime.logging import LoggingSettings
from services.runtime.settings import RedisSettings, RunSettings, Section


class TaskSettings(Section):
    """Where prompts come from and how responses are judged."""

    name: Literal["sort", "jsonl"] = "sort"
    """`sort` makes digit-sorting problems; `jsonl` reads prompts and answers from a file."""
    digits: int = Field(default=16, ge=1, le=512)
    """Length of a problem of the sort task."""
    file: Path | None = None
    """For `jsonl`: one object a line with the keys `prompt` and `answer`, and optionally `id`."""
    held_out_file: Path | None = None
    """For `jsonl`: the same kind of file for evaluation, never trained on. None: evaluation uses `file`."""
    verifier: Literal["exact_match", "regular_expression"] = "exact_match"
    """`exact_match`: the response is the answer. `regular_expression`: what `pattern` captures is the answer."""
    pattern: str = r"####\s*(\S+)"
    """For `regular_expression`: the last match counts; its first group, or all of it, is compared with the answer."""

    @model_validator(mode="after")
    def _file_is_given(self) -> Self:
        if self.name == "jsonl" and self.file is None:
            raise ValueError("task jsonl needs collector.task.file, a JSONL file of prompts and answers")
        return self


class CollectorSettings(Section):
    """How prompts become scored groups."""

    task: TaskSettings = TaskSettings()
    """Where prompts come from and how responses are judged."""
    sampling: SamplingParameters = SamplingParameters()
    """How responses are sampled. Truncated sampling (top_p, top_k) is refused: it biases the importance ratio."""
    group_deadline_seconds: float = Field(default=120.0, gt=0)
    """A group not finished by then is started again on another replica."""
    max_attempts: int = Field(default=50, ge=1)
    """A group that has come to nothing this often, by failed calls or refusals of the trainer, ends the collector."""
    queue_factor: float = Field(default=1.5, ge=1.0)
    """Sequences sent to a replica, relative to its slots: above 1 its slots refill without waiting for us."""
    http_host: str = "127.0.0.1"
    """Address the metrics and health endpoints listen on."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Port of the metrics and health endpoints; 0 takes a free one and logs it."""

    @model_validator(mode="after")
    def _sampling_can_be_trained_on(self) -> Self:
        if self.sampling.top_p < 1.0 or self.sampling.top_k > 0:
            raise ValueError(
                "truncated sampling (sampling.top_p < 1 or sampling.top_k > 0) is refused: the trainer scores over the "
                "whole vocabulary, and the importance ratio would be biased. Set top_p = 1 and top_k = 0."
            )
        if self.sampling.seed is not None:
            raise ValueError("sampling.seed is drawn from run.seed for each group; set run.seed instead")
        if self.sampling.temperature == 0.0:
            raise ValueError("sampling.temperature = 0 has no log-probs to train on; set it above 0, usually to 1")
        return self


class CollectorProcessSettings(Section):
    """All that a collector process reads from the settings file."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    collector: CollectorSettings = CollectorSettings()
    logging: LoggingSettings = LoggingSettings()
