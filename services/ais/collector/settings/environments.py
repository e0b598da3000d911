"""Settings of what the policy acts in over several turns: section [collector.task.environment]."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ais.runtime.settings import Count, CountOrNone, Seconds, Section

EPISODE = "episode"
"""Name of the component of the reward that an environment gives."""
TURNS = "turns"
"""Name of the component, of weight 0, that counts an episode's turns."""


class EnvironmentSettings(Section):
    """What answers the policy's turns. A prompt is then asked as an episode of several turns with one reward."""

    name: Literal["guess_number", "calculator", "retry", "python", "harness", "outside", "verifiers"]
    """`guess_number` says whether a guess is too low or too high. `calculator` runs the calculations that the policy
    asks for and judges the answer after them. `retry` has the verifiers of the source judge each turn, and asks again
    while that is worth less than `enough`. `python` is a class of yours, and `harness` a program of yours that calls
    the policy by OpenAI's API. `outside` leaves episodes to agents on other machines, which ask for them (`ais agent`).
    `verifiers` is an environment of the package of that name (docs/environments.md)."""
    object: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=500)
    """For `python`: `module:object`, called without arguments but `parameters`; it gives an environment."""
    directory: Path | None = None
    """For `python` and `verifiers`: where its module lies. None: where Python finds it, the current directory included.
    For `harness`: where the program starts. None: the current directory."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """For `python`: what the object is called with. For `verifiers`: what its own configuration of an environment says
    besides the taskset's id, such as {taskset = {highest = 9}, agent = {harness = {id = "null"}}}."""
    taskset: str | None = Field(default=None, pattern=r"^[\w./@-]+$", max_length=500)
    """For `verifiers`: the id of the environment there, a taskset's."""
    interpreter: Path | None = None
    """For `verifiers`: the Python that has that package and the environment, such as venv/bin/python. None: the
    collector's own."""
    feedback: str = Field(default="That is not right. Try again.", min_length=1, max_length=10_000)
    """For `retry`: what the policy is told after a turn that is not worth `enough`."""
    enough: float = Field(default=1.0, ge=-1e6, le=1e6)
    """For `retry`: the reward from which no other turn is asked for. The last turn's reward is the episode's."""
    command: tuple[str, ...] = ()
    """For `harness`: the program and its arguments, started for each episode. `python` is the collector's own."""
    judged_by: Literal["program", "verifiers"] = "program"
    """For `harness` and `outside`: who gives the reward. `program`: it ends the episode with one. `verifiers`: those of
    the source judge the last turn."""
    branches: Literal["longest", "all"] = "longest"
    """For `harness`, `outside` and `verifiers`: what is trained of an episode's branches. `longest`: of those that
    begin with the group's prompt, the one of the most sampled tokens. `all`: that one and the others, with one
    reward."""
    programs: int = Field(default=16, ge=1, le=128)
    """For `harness`, `outside` and `verifiers`: programs, or episodes, that run at once."""
    silent_seconds: Seconds = 60.0
    """For `outside`: an agent of whom nothing is heard for so long is lost, and its episode is played again by another.
    Any call with the episode's key is a sign of life, and so is one that is being answered."""
    program_megabytes: int = Field(default=0, ge=0, le=2**24)
    """For `harness`: memory that a program may have, and each process that it starts, as addresses (RLIMIT_AS), of
    which libraries such as torch take several times what they use. 0: any. Beyond it a process gets no memory, and what
    becomes of it is its own affair; a program that says so and ends is a failure of the outcome `memory`."""
    unstable_template: Literal["begin_anew", "refuse"] = "begin_anew"
    """Where the chat template does not go on where it stopped, as one that strips reasoning from earlier turns.
    `begin_anew`: the next turn reads the conversation as the template writes it now, in a sequence of its own, which
    replicas and trainer read from its beginning. `refuse`: the run does not begin."""
    turns: Count = 8
    """Turns of the policy that an episode has at most."""
    tokens: CountOrNone = 0
    """Tokens after the prompt, of all turns and what stands between, from which no other turn is asked for. What is
    read anew counts again. 0: as many as the replicas' context holds."""
    seconds: Seconds | None = None
    """Time from which no other turn is asked for; for `harness`, `outside` and `verifiers` the episode is ended, which
    is a failure. None: collector.group_deadline_seconds alone bounds it, for these each episode from its start, after
    which the group starts again."""
    max_versions_apart: CountOrNone | None = None
    """How far the newest policy version that sampled a token of an episode may be from the oldest. An episode beyond it
    starts again with its group, and counts as nobody's failure. None: run.max_staleness bounds it by itself, because a
    batch is not trained before all its episodes are there."""

    @model_validator(mode="after")
    def _object_is_given(self) -> Self:
        if (self.name == "python") != (self.object is not None):
            raise ValueError('environment.name = "python" and environment.object go together')
        if (self.name == "harness") != bool(self.command):
            raise ValueError('environment.name = "harness" and environment.command go together')
        if (self.name == "verifiers") != (self.taskset is not None):
            raise ValueError('environment.name = "verifiers" and environment.taskset go together')
        if self.name == "verifiers" and "id" in self.parameters.get("taskset", {}):
            raise ValueError("environment.taskset is the id: leave parameters.taskset.id out")
        return self

    @property
    def by_programs(self) -> bool:
        """Whether episodes are played by what calls the policy."""
        return self.name in ("harness", "outside", "verifiers")

    @property
    def plays_elsewhere(self) -> bool:
        """Whether those who play come from other machines, when they like."""
        return self.name == "outside"

    @property
    def judges(self) -> bool:
        """Whether the environment gives the reward, and not the verifiers of the source."""
        return self.judged_by == "program" if self.name in ("harness", "outside") else self.name != "retry"
