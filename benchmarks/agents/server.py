"""The process that is measured: the endpoint with episodes whose policy is replayed, or a bare handler in its place.

`python -m benchmarks.agents.server '{...}'` writes lines of JSON: `{"address"}`; for each episode `{"episode", "path",
"key"}`; `{"done", "resident"}`, bytes, at each mark; and at the end what it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ais.collector.episodes.call import Call
from ais.collector.episodes.recording import Recording, main_branch
from ais.collector.episodes.table import Table
from ais.collector.exercise import Exercise, open_exercise
from ais.collector.judging.harness.endpoint import open_endpoint
from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.replicas.generation import GenerationClient
from ais.collector.replicas.progress import SampledTokens
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, Trajectory, TrajectoryBounds
from ais.runtime.network.http import serve
from benchmarks.agents.episodes import ReplayedEpisode, Shape, episode

EXAMPLES = Path(__file__).parents[2] / "examples"
VOCABULARY = 22
TELL_SECONDS = 0.05
"""Tokens of a streamed answer come no more often than that, as a replica tells them."""
PATIENCE_SECONDS = 300.0
"""An episode that has not ended by then is lost."""


@dataclass(frozen=True)
class Asked:
    """What is to be run."""

    shape: Shape
    episodes: int
    concurrent: int
    answer_seconds: float
    """How long the policy takes for each answer."""
    marks: tuple[int, ...]
    """Episodes after which memory is looked at."""
    bare: bool
    """Whether it is the handler that records nothing."""
    stream: bool = False
    """Whether answers are asked for as streams."""

    def written(self) -> str:
        return json.dumps(self.__dict__ | {"shape": self.shape.__dict__})

    @classmethod
    def read(cls, text: str) -> Asked:
        given = json.loads(text)
        return cls(**{**given, "shape": Shape(**given["shape"]), "marks": tuple(given["marks"])})


@dataclass(frozen=True)
class Policy:
    """Stands in for a replica: answers what is replayed."""

    answers: Sequence[Sequence[int]]
    seconds: float

    @contextmanager
    def held(self) -> Iterator[None]:
        yield

    async def generate(self, group_id: str, *_: Any, **__: Any) -> tuple[Trajectory, ...]:
        await asyncio.sleep(self.seconds)
        return (self._answer(group_id),)

    async def stream(
        self,
        group_id: str,
        _prompt: Sequence[int],
        _sampling: SamplingParameters,
        _bounds: TrajectoryBounds,
        _deadline_seconds: float,
        on_sampled: Callable[[SampledTokens], object],
        **_: Any,
    ) -> Trajectory:
        answer = self._answer(group_id)
        tokens, logprobs = answer.token_ids.tolist(), answer.behaviour_logprobs.tolist()
        messages = max(1, round(self.seconds / TELL_SECONDS))
        for number in range(messages):
            begin, end = ((len(tokens) - 1) * place // messages for place in (number, number + 1))
            if begin < end:
                on_sampled(SampledTokens(tokens[begin:end], logprobs[begin:end]))
            await asyncio.sleep(self.seconds / messages)
        return answer

    def _answer(self, group_id: str) -> Trajectory:
        tokens = self.answers[int(group_id.rpartition(".")[2])]
        return Trajectory(
            trajectory_id=group_id,
            group_id=group_id,
            sample_index=0,
            token_ids=np.array(tokens, np.int32),
            behaviour_logprobs=np.full(len(tokens), -0.5, np.float32),
            spans=(PolicySpan(0, 0, len(tokens)),),
            finish_reason=FinishReason.STOP,
            sampling=SamplingParameters(max_new_tokens=len(tokens)),
            precision=Precision(),
            engine="replayed",
            engine_version="",
            replica_id="replayed",
            first_token_seconds=0.0,
            total_seconds=self.seconds,
        )


@dataclass
class Progress:
    """What has been played."""

    asked: Asked
    done: int = 0
    lost: int = 0
    turns: int = 0
    begun: float = field(default_factory=time.process_time)
    apart: float = 0.0
    """Seconds of the processor that drawing and comparing episodes took, which are no affair of the endpoint's."""

    @contextmanager
    def own(self) -> Iterator[None]:
        """Around what the benchmark does for itself, in the thread that the endpoint has too."""
        begun = time.thread_time()
        yield
        self.apart += time.thread_time() - begun

    def count(self, turns: int, whole: bool) -> None:
        """An episode is over."""
        self.done += 1
        self.lost += not whole
        self.turns += turns
        if self.done in self.asked.marks:
            say({"done": self.done, "resident": psutil.Process().memory_info().rss})

    def end(self) -> None:
        """All are."""
        processor = time.process_time() - self.begun - self.apart
        say({"turns": self.turns, "lost": self.lost, "processor_seconds": processor})


def say(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


@asynccontextmanager
async def opened(shape: Shape) -> AsyncIterator[Exercise]:
    """The tokenizer and the chat template of the small policy."""
    environment = {"name": "harness", "command": ["true"], "turns": shape.turns}
    collector = {
        "task": {"name": "guess_number", "environment": environment},
        "prompt": {"chat_template": EXAMPLES / "openai_client" / "template.jinja"},
    }
    model = EXAMPLES / "guess_number" / "model"
    settings = CollectorProcessSettings.model_validate({"run": {"model": model}, "collector": collector})
    async with open_exercise(settings, Split.TRAIN) as exercise:
        yield exercise


async def serve_endpoint(asked: Asked) -> None:
    """Has all episodes played, `concurrent` at once, and each looked at when it is over."""
    async with opened(asked.shape) as exercise, open_endpoint() as (endpoint, address):
        prompt = exercise.prompt(0)
        harness = exercise.harness(prompt)
        assert harness is not None
        stop = exercise.tokenizer.tokenizer.eos_token_id
        assert isinstance(stop, int)
        say({"address": address})
        progress, numbers = Progress(asked), iter(range(asked.episodes))

        async def play_some() -> None:
            for number in numbers:
                with progress.own():
                    replayed = episode(number, asked.shape)
                    answers = [[*exercise.tokenizer.encode_piece(text), stop] for text in replayed.answers]
                client = cast(GenerationClient, Policy(answers, asked.answer_seconds))
                sampling = SamplingParameters(max_new_tokens=asked.shape.answer, seed=number)
                call = Call(f"episode-{number}", 1, sampling, VOCABULARY, PATIENCE_SECONDS)
                recording = Recording(Table(exercise, harness.settings, prompt, client, call), 0)
                with endpoint.episode(recording) as (path, key):
                    say({"episode": number, "path": path, "key": key})
                    over = await _ended(recording)
                with progress.own():
                    whole = over and _is_whole(recording, exercise, replayed, answers)
                progress.count(asked.shape.turns, whole)

        await asyncio.gather(*(play_some() for _ in range(asked.concurrent)))
        progress.end()


async def _ended(recording: Recording) -> bool:
    """Whether the episode came to its end."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await recording.ended.wait()
    except TimeoutError:
        return False
    return True


def _is_whole(recording: Recording, exercise: Exercise, replayed: ReplayedEpisode, answers: list[list[int]]) -> bool:
    """Whether it has every token as it was said and sampled."""
    begun = exercise.tokenizer.encode_prompt(Prompt("", replayed.said[0], "").question)
    branch = main_branch(recording.branches, begun)
    told = [exercise.tokenizer.encode_piece(text) for text in replayed.said]
    told[0] = begun
    expected = [token for one in zip(told, answers, strict=True) for part in one for token in part]
    return branch is not None and branch.tokens == expected


async def serve_bare(asked: Asked) -> None:
    """The same bodies parsed and answered by a handler that knows nothing of episodes."""
    app, progress = FastAPI(), Progress(asked)
    over = asyncio.Event()

    @app.post("/{number}/chat/completions")
    async def completions(number: int, request: Request) -> JSONResponse:
        messages = json.loads(await request.body())["messages"]
        await asyncio.sleep(asked.answer_seconds)
        text = episodes[number].answers[len(messages) // 2]
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 0, "completion_tokens": asked.shape.answer, "total_tokens": asked.shape.answer}
        told = {"id": "chatcmpl", "object": "chat.completion", "created": 0, "model": "policy"}
        return JSONResponse(told | {"choices": [choice], "usage": usage})

    @app.post("/{number}/end")
    async def end(number: int, request: Request) -> JSONResponse:  # noqa: ARG001
        json.loads(await request.body())
        progress.count(asked.shape.turns, whole=True)
        free.release()
        if progress.done == asked.episodes:
            over.set()
        return JSONResponse({"ended": True})

    episodes: dict[int, ReplayedEpisode] = {}
    free = asyncio.Semaphore(asked.concurrent)
    async with serve(app, "127.0.0.1", 0) as port:
        say({"address": f"http://127.0.0.1:{port}"})
        for number in range(asked.episodes):
            await free.acquire()
            episodes[number] = episode(number, asked.shape)
            say({"episode": number, "path": f"/{number}", "key": "none"})
        await over.wait()
        progress.end()


if __name__ == "__main__":
    run_without_torch()  # as the collector does
    request = Asked.read(sys.argv[1])
    asyncio.run(serve_bare(request) if request.bare else serve_endpoint(request))
