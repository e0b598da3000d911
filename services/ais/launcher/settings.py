"""Settings of `ais run` and `ais eval`: section [launcher]."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ais.runtime.settings import (
    MOST,
    Count,
    CountOrNone,
    Seconds,
    Section,
)


class WarmStartSettings(Section):
    """How `ais warmstart` makes run.model: a small policy, supervised on demonstrations of the task with mistakes in
    them. For the tasks sort, sort_swaps and sum_chain, and for guess_number and calculations, whose answers are
    turns."""

    when_missing: bool = False
    """`ais run` makes run.model where it is not there yet. Otherwise a model that is not there is refused."""
    size: Literal["tiny", "small", "medium", "large"] = "tiny"
    """About 0.1, 0.3, 1.3 and 3.2 million parameters; files of 0.2 to 6.3 MB. All have a context of 2,048 tokens."""
    family: Literal["qwen3", "qwen3_5"] = "qwen3"
    """Architecture. `qwen3_5`: every second layer is linear attention, which takes longer to train on a CPU."""
    alphabet: Literal["digits", "tool_calls"] = "digits"
    """What the policy reads and writes. `digits`: digits and few signs, 22 tokens. `tool_calls`: every printable
    character of ASCII, and what stands before and behind the expression in a call of the calculator as two tokens of
    their own; 100 tokens in all."""
    accuracy: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Share of answers, sampled at temperature 1, that are to be right from beginning to end. The warm start ends as
    soon as they are, and fails when its steps are used up before."""
    steps: Count = 600
    """Most steps. The learning rate falls to 5% over so many."""
    batch_size: Count = 128
    """Demonstrations a step."""
    learning_rate: float = Field(default=3e-3, gt=0.0, le=1.0)
    """Peak, after 50 steps."""
    seed: int = Field(default=0, ge=0, le=MOST)
    """Draws the first weights and the demonstrations."""


class LauncherSettings(Section):
    """How a run on one machine is started, evaluated and ended."""

    warm_start: WarmStartSettings = WarmStartSettings()
    """How run.model is made, where that is asked for."""
    evaluation_prompts: CountOrNone = 512
    """Held-out prompts each saved checkpoint is evaluated on after training, or all that there are; 0 leaves the
    evaluation out."""
    evaluation_checkpoints: int = Field(default=8, ge=2, le=MOST)
    """Most checkpoints that are evaluated: the first, the last, and others evenly between."""
    deaths_limit: Count = 5
    """Deaths in a row, each within seconds of its start, before a process is given up."""
    agents: int = Field(default=0, ge=0, le=64)
    """Agents (`ais agent`) that a run starts beside its services, and again for its evaluation, for environment.name =
    outside. They ask at agent.url, and without one at this machine's collector.agents_port. 0: agents come from
    elsewhere."""
    stop_grace_seconds: Seconds = 30.0
    """How long a service may take to end after SIGTERM; then it is killed. Long enough for the trainer to finish its
    step and commit a checkpoint; usually all end within a second or two."""
