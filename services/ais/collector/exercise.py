"""The prompts of a run together with what turns them into tokens and responses into rewards."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from ais.collector.environments.protocol import PolicyTurn
from ais.collector.judging.harness.host import Harness
from ais.collector.judging.harness.outside import Entrance
from ais.collector.judging.hosts import Host, Opening, Place
from ais.collector.judging.judge import Judge, Judged, UnjudgedError
from ais.collector.judging.judgement import Observe, unobserved
from ais.collector.judging.opening import open_judging
from ais.collector.judging.service import ObserveCall, call_unobserved
from ais.collector.prompts.dialogue import UnstableTemplateError, check_template, sequences_of
from ais.collector.prompts.prompts import Messages, Prompt, Split, TaskError, TaskSource
from ais.collector.prompts.reserve import position_of
from ais.collector.prompts.room import PromptRoom, context_of
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.rewards.response import Response
from ais.collector.settings import CollectorProcessSettings
from ais.collector.settings.environments import EnvironmentSettings
from ais.collector.tasks.task import open_splits
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.tracing.spans import span

logger = logging.getLogger(__name__)

TURNS_TRIED = 2
"""Turns of an environment that are tried before anything is sampled."""
SAID = "7"
"""What those turns say; where there are tools, a call of the first."""

Ending = Literal["done", "failed", "turns", "tokens", "seconds", "context"]
"""Why an episode ended: its environment says so or gives no answer, or which budget allows no other turn."""
ObserveEpisode = Callable[[Ending, int, int], None]
"""Is told of each episode why it ended, its turns, and the versions between its oldest token and its newest."""


def episode_unobserved(ending: Ending, turns: int, versions_apart: int) -> None:
    """For those who do not count episodes."""


@dataclass(frozen=True)
class Exercise:
    """One task for one policy. Training and evaluation both ask and judge through it."""

    task: TaskSource
    tokenizer: PolicyTokenizer
    judge: Judge
    held_out: TaskSource | None = None
    """Where the task is training's: the prompts to evaluate on."""
    hosts: Mapping[str, Host] = field(default_factory=dict)
    """Who runs environments, by source of the prompts."""
    harnesses: Mapping[str, Harness] = field(default_factory=dict)
    """Who has programs play episodes, by source of the prompts."""
    context: int | None = None
    """Longest prompt plus response of a replica, tokens; None: not known here."""
    unstable: frozenset[str] = frozenset()
    """Sources whose episodes begin anew where the chat template does not go on where it stopped."""
    observe_episode: ObserveEpisode = episode_unobserved

    def prompt(self, ordinal: int, redraw: int = 0) -> Prompt:
        """The prompt of an ordinal, `redraw` groups of it having been thrown away."""
        return self.task.prompt(position_of(ordinal, redraw))

    def ask(self, ordinal: int, redraw: int = 0) -> tuple[Prompt, list[int]]:
        """The prompt of an ordinal, and its tokens."""
        prompt = self.prompt(ordinal, redraw)
        return prompt, self.tokenizer.encode_prompt(prompt.question)

    def host(self, prompt: Prompt) -> Host | None:
        """Who runs the environment that the prompt is asked in; None: nobody."""
        return self.hosts.get(prompt.source)

    def harness(self, prompt: Prompt) -> Harness | None:
        """Who has programs play the prompt's episodes; None: nobody."""
        return self.harnesses.get(prompt.source)

    async def judged(self, prompt: Prompt, trajectories: Sequence[Trajectory]) -> Judged:
        """Rewards and their components for the responses to `prompt`, in their order.

        Raises UnavailableError and UnjudgedError, see Judge.
        """
        with span("judge", responses=len(trajectories)):
            return await self.judge.judge(prompt, [self.response(trajectory) for trajectory in trajectories])

    def response(self, trajectory: Trajectory) -> Response:
        """A single response, as verifiers get it."""
        return Response(
            text=self._text(trajectory),
            finish_reason=trajectory.finish_reason,
            tokens=len(trajectory.token_ids),
            most_tokens=trajectory.sampling.max_new_tokens,
        )

    def _text(self, trajectory: Trajectory) -> str:
        token_ids = trajectory.token_ids
        if trajectory.finish_reason is FinishReason.STOP:
            token_ids = token_ids[:-1]  # the stop token, which not every tokenizer calls special
        return self.tokenizer.decode_response(token_ids.tolist())


@asynccontextmanager
async def open_exercise(
    settings: CollectorProcessSettings,
    split: Split,
    observe: Observe = unobserved,
    observe_call: ObserveCall = call_unobserved,
    observe_episode: ObserveEpisode = episode_unobserved,
) -> AsyncIterator[Exercise]:
    """The prompts of `split` and what judges their responses, while the context is open.

    Raises UnavailableError when one cannot be used, and where an environment needs more of the chat template than that
    does. Before training, the prompts of the evaluation are opened too, so that a bad row is found now and not
    afterwards.
    """
    splits = (Split.TRAIN, Split.HELD_OUT) if split is Split.TRAIN else (split,)
    (task, *held_out), tokenizer = open_prompts(settings, splits)
    judged_by = settings.collector
    if split is Split.HELD_OUT and judged_by.judging.on_failure == "again":  # an evaluation asks once
        asked_once = judged_by.judging.model_copy(update={"on_failure": "zero"})
        judged_by = judged_by.model_copy(update={"judging": asked_once})
    try:
        entrance = partial(_entrance, settings, split)
        async with open_judging(judged_by, observe, observe_call, settings.run.use_proxy, entrance) as judging:
            context = context_of(settings.run.model, settings.rollout.max_model_len)
            evaluated = held_out[0] if held_out else None
            exercise = Exercise(
                task,
                tokenizer,
                judging.judge,
                evaluated,
                judging.hosts,
                judging.harnesses,
                context,
                observe_episode=observe_episode,
            )
            yield replace(exercise, unstable=await _try_environments(exercise))
    except TaskError as error:
        raise UnavailableError(str(error)) from error


def _entrance(settings: CollectorProcessSettings, split: Split) -> Entrance:
    """Raises SettingsError for a listener that the network reaches while there are no tokens."""
    host = settings.collector.agents_host
    keyring = open_keyring(settings.security, settings.run, collector__agents_host=host)
    return Entrance(keyring.door(Role.AGENT), waits=split is Split.HELD_OUT)


async def _try_environments(exercise: Exercise) -> frozenset[str]:
    """Begins an episode in each environment, and has turns that say little answered, to see whether the chat template
    is stable over what it says. The sources where it is not; raises UnavailableError, also for those, where their
    episodes may not begin anew."""
    evaluated = () if exercise.held_out is None else exercise.held_out.sources
    unstable = set[str]()
    for source in {one.name: one for one in (*evaluated, *exercise.task.sources)}.values():
        prompt = source.prompt(0)
        if (harness := exercise.harness(prompt)) is not None:
            if not exercise.tokenizer.chats:
                raise UnavailableError("programs speak in chats: environment.name = harness needs a chat template")
            told: list[Messages] = [({"role": "user", "content": SAID},)]
            if not _is_stable(exercise.tokenizer, harness.settings, Opening(Place(), prompt.question), told):
                unstable.add(prompt.source)
        if (host := exercise.host(prompt)) is None:
            continue
        try:
            opening = await host.begin(prompt)
            answers = await _some_answers(host, opening, prompt)
        except UnjudgedError as error:
            raise UnavailableError(f"the environment {host.settings.name} does not work: {error}") from error
        if not _is_stable(exercise.tokenizer, host.settings, opening, answers):
            unstable.add(prompt.source)
    return frozenset(unstable)


def _is_stable(
    tokenizer: PolicyTokenizer, settings: EnvironmentSettings, opening: Opening, answers: Sequence[Messages]
) -> bool:
    """Whether the chat template goes on where it stopped, over turns that are answered so. Raises UnstableTemplateError
    where it does not and episodes may not begin anew."""
    try:
        check_template(tokenizer, opening.question, answers, opening.tools)
    except UnstableTemplateError as error:
        if settings.unstable_template == "refuse":
            raise UnstableTemplateError(
                f"{error}. Give collector.prompt.chat_template one that leaves turns as they are, or let episodes "
                'begin anew there: environment.unstable_template = "begin_anew"'
            ) from error
        lengths = sequences_of(tokenizer, opening.question, answers, opening.tools)
        logger.warning(
            "episodes of %s begin anew where the template does not go on, which takes more tokens: the %d turns that "
            "were tried are read in %d sequences of %d characters in all, of which the last has %d; %s. "
            "collector.prompt.chat_template may name a template that leaves turns as they are",
            *(settings.name, len(answers) + 1, len(lengths), sum(lengths), lengths[-1], error),
        )
        return False
    return True


async def _some_answers(host: Host, opening: Opening, prompt: Prompt) -> list[Messages]:
    """What the environment may say after a turn, and after the next one."""
    settings = host.settings
    if not settings.judges:
        return [({"role": "user", "content": settings.feedback},)] * TURNS_TRIED
    said = _a_call(opening.tools[0]) if opening.tools else SAID
    place, answers = opening.place, list[Messages]()
    for number in range(min(TURNS_TRIED, settings.turns - 1)):
        told = await host.answer(
            place, prompt, PolicyTurn(said, FinishReason.STOP, number, settings.turns - number - 1)
        )
        if told.failed and not number:
            raise UnjudgedError(f"it answers no turn: {told.parts[0].failures[0].text}")
        if told.done:
            break
        place = told.place
        answers.append(told.messages)
    return answers


def _a_call(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    return f"<tool_call>{json.dumps({'name': name, 'arguments': {}})}</tool_call>"


def open_prompts(
    settings: CollectorProcessSettings, splits: tuple[Split, ...]
) -> tuple[tuple[TaskSource, ...], PolicyTokenizer]:
    """The prompts of several splits, for which each row is read once. Raises UnavailableError."""
    run, task = settings.run, settings.collector.task
    tokenizer = open_tokenizer(run.model, settings.collector.prompt)
    room = PromptRoom(tokenizer, context_of(run.model, settings.rollout.max_model_len))
    try:
        return open_splits(task, run.seed, splits, room.fits), tokenizer
    except TaskError as error:
        raise UnavailableError(str(error)) from error
