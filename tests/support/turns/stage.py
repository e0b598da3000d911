"""An endpoint with an episode at it, and what answers there: a replica, or a policy whose answers are known."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import openai

from ais.collector.episodes.call import Call
from ais.collector.episodes.recording import Recording
from ais.collector.episodes.table import Table
from ais.collector.exercise import Ending, Exercise, open_exercise
from ais.collector.judging.harness.endpoint import Endpoint, open_endpoint
from ais.collector.prompts.prompts import Split
from ais.collector.replicas.generation import GenerationClient
from ais.collector.replicas.progress import SampledTokens
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.contracts.trajectory import Trajectory, TrajectoryBounds
from tests.support.records import trajectory_of
from tests.support.turns.replica import EXAMPLES, VOCABULARY

EXAMPLE = EXAMPLES / "openai_client"
GUESSING = EXAMPLES / "guess_number" / "model"

ASK = """
import json, os, sys, time, subprocess, urllib.request
episode = json.loads(sys.stdin.readline())
def call(path, body):
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + path, json.dumps(body).encode(), {
        "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
def ask(): call("/chat/completions", {"messages": [{"role": "user", "content": episode["text"]}]})
"""


def program(does: str) -> tuple[str, ...]:
    """The command of a program that is told of its episode, and may `ask()` and `call(path, body)`."""
    return (sys.executable, "-c", ASK + does)


class Scripted(GenerationClient):
    """A policy that says one thing after another, the last one for ever, as soon as it `may`."""

    def __init__(self, *says: Sequence[int]) -> None:
        self._says, self.finish = list(says), FinishReason.STOP
        self.prompts: list[list[int]] = []
        """What it was asked so far."""
        self.sampled: list[list[int]] = []
        """What it answered."""
        self.asked = 0
        """Answers that are waited for."""
        self.may = asyncio.Event()
        self.may.set()
        self.at_once = 1
        """Tokens of an answer that are sampled before it `may` go on."""

    @contextmanager
    def held(self) -> Iterator[None]:
        yield

    async def generate(
        self,
        group_id: str,
        prompt_token_ids: Sequence[int],
        samples: int,
        sampling: SamplingParameters,
        *_: Any,
        **__: Any,
    ) -> tuple[Trajectory, ...]:
        assert samples == 1
        return (await self._answer(group_id, prompt_token_ids, sampling, lambda _: None),)

    async def stream(
        self,
        group_id: str,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParameters,
        _bounds: TrajectoryBounds,
        _deadline_seconds: float,
        on_sampled: Callable[[SampledTokens], object],
        for_training: bool = False,
    ) -> Trajectory:
        return await self._answer(group_id, prompt_token_ids, sampling, on_sampled)

    async def _answer(
        self,
        group_id: str,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParameters,
        on_sampled: Callable[[SampledTokens], object],
    ) -> Trajectory:
        self.prompts.append(list(prompt_token_ids))
        said = self._says.pop(0) if len(self._says) > 1 else self._says[0]
        logprobs = [-0.5 - place for place in range(len(said))]
        self.asked += 1
        try:
            for place in range(min(self.at_once, len(said) - 1)):
                on_sampled(SampledTokens([said[place]], [logprobs[place]]))
            await self.may.wait()
            for place in range(min(self.at_once, len(said) - 1), len(said) - 1):
                on_sampled(SampledTokens([said[place]], [logprobs[place]]))
                await asyncio.sleep(0)
        finally:
            self.asked -= 1
        self.sampled.append(list(said))
        fields = {"behaviour_logprobs": logprobs, "finish_reason": self.finish, "sampling": sampling}
        return trajectory_of(said, group_id, **fields)


@asynccontextmanager
async def exercise(
    environment: Mapping[str, Any], endings: list[tuple[Ending, int, int]] | None = None, **prompt: Any
) -> AsyncIterator[Exercise]:
    told = [] if endings is None else endings
    template = {"chat_template": EXAMPLE / "template.jinja"} | prompt
    task = {"name": "guess_number", "environment": {"name": "harness"} | environment}
    settings = CollectorProcessSettings.model_validate(
        {
            "run": {"model": GUESSING},
            "rollout": {"max_model_len": 256},
            "collector": {"task": task, "prompt": template, "judging": {"workers": 1}},
        }
    )
    async with open_exercise(settings, Split.TRAIN, observe_episode=lambda *one: told.append(one)) as opened:
        yield opened


def call(samples: int, deadline_seconds: float = 600.0) -> Call:
    return Call("group", samples, SamplingParameters(max_new_tokens=4, seed=11), VOCABULARY, deadline_seconds)


@dataclass
class Stage:
    """An endpoint, and an episode at it."""

    endpoint: Endpoint
    address: str
    table: Table
    recording: Recording
    url: str
    key: str

    def client(self, key: str = "", url: str = "", **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=url or self.url, api_key=key or self.key, max_retries=0, **options)

    async def say(self, *messages: Any, **fields: Any) -> Any:
        async with self.client() as client:
            return await client.chat.completions.create(model="any", messages=list(messages), **fields)


@asynccontextmanager
async def staged(
    client: GenerationClient,
    change: Callable[[Exercise], Exercise] = lambda made: made,
    sampling: SamplingParameters | None = None,
    **environment: Any,
) -> AsyncIterator[Stage]:
    settings = {"command": ["python"], "turns": 4} | environment
    async with exercise(settings) as made, open_endpoint() as (endpoint, address):
        made = change(made)
        prompt = made.prompt(0)
        harness = made.harness(prompt)
        assert harness is not None
        asked = call(1) if sampling is None else replace(call(1), sampling=sampling)
        table = Table(made, harness.settings, prompt, client, asked)
        recording = Recording(table, 0)
        with endpoint.episode(recording) as (path, key):
            yield Stage(endpoint, address, table, recording, f"{address}{path}", key)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
