"""One precision of the vLLM benchmark, in a process of its own: vLLM allows one engine a process.

Run as a program it opens our engine, serves it by the real generation API, and then samples what it is told to, either
straight from vLLM or through gRPC. It reads one JSON array `[method, arguments]` a line from standard input and answers
with a line `{"result": ...}` or `{"error": "..."}`. vLLM's own output goes to standard error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CollectorRegistry

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.model_identity import identify_model
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds
from ais.rollout.engine import GenerationRequest
from ais.rollout.engines.vllm_engine.opening import open_vllm
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.settings import RolloutSettings

DEADLINE_SECONDS = 1800.0
"""Deadline of one call: a slow contender is a result, not a failure."""
LOG_TAIL = 8000
"""Characters of a failed process's log that are shown."""

Way = Literal["direct", "service"]
"""direct: vLLM's AsyncLLM is called with the prompts. service: a gRPC client calls our generation API, behind which is
the very same AsyncLLM."""


class ContenderFailedError(RuntimeError):
    """The process of a contender could not do what it was told."""


@dataclass(frozen=True)
class Work:
    """`groups` prompts of `prompt` random tokens, with `samples` responses of `response` tokens each, all at once."""

    groups: int
    samples: int
    prompt: int
    response: int
    seed: int

    @property
    def tokens(self) -> int:
        return self.groups * self.samples * self.response


class Contender:
    """The near end of the process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def engine_version(self) -> str:
        """vLLM's. Waits until the engine has started."""
        return str(self._ask("engine_version"))

    def measure(self, way: Way, work: Work) -> float:
        """Seconds that the work took."""
        return float(self._ask(way, asdict(work)))

    def _ask(self, method: str, *arguments: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            tail = self._log.read_text(encoding="utf-8")[-LOG_TAIL:]
            raise ContenderFailedError(f"a contender's process ended with {self._process.wait()}; it said\n{tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderFailedError(answer["error"])
        return answer["result"]


@contextmanager
def contender(model: Path, settings: RolloutSettings, log: Path) -> Iterator[Contender]:
    """A process that serves `model` with `settings`. It is still starting: the first call waits.

    What it and vLLM say goes to the file `log`.
    """
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.support.vllm_contender", str(model), settings.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        # Leaving closes its input, whereupon it ends by itself and takes vLLM's processes with it.
        yield Contender(process, log)


class _Served:
    """The far end."""

    def __init__(self, engine: Any, client: GenerationClient) -> None:
        self._engine = engine
        self._client = client
        self._tickets = itertools.count()

    async def engine_version(self) -> str:
        return str(self._engine.describe().engine_version)

    async def direct(self, work: Work) -> float:
        request = GenerationRequest("direct", (0,), 1, SamplingParameters(max_new_tokens=work.response))
        sampling = self._engine._vllm_sampling(request, None, streamed=False)

        async def sample(prompt: list[int]) -> int:
            stream = self._engine._llm.generate({"prompt_token_ids": prompt}, sampling, f"direct-{next(self._tickets)}")
            outputs = [output async for output in stream]
            return len(outputs[-1].outputs[0].token_ids)

        prompts = await self._prompts(work)
        begun = time.perf_counter()
        sampled = await asyncio.gather(*(sample(prompt) for prompt in prompts for _ in range(work.samples)))
        return _seconds(begun, sum(sampled), work)

    async def service(self, work: Work) -> float:
        sampling = SamplingParameters(max_new_tokens=work.response)
        bounds = TrajectoryBounds(vocab_size=self._engine.describe().vocab_size)

        async def group(prompt: list[int]) -> int:
            name = f"service-{next(self._tickets)}"
            trajectories = await self._client.generate(name, prompt, work.samples, sampling, bounds, DEADLINE_SECONDS)
            return sum(len(trajectory.token_ids) for trajectory in trajectories)

        prompts = await self._prompts(work)
        begun = time.perf_counter()
        sampled = await asyncio.gather(*(group(prompt) for prompt in prompts))
        return _seconds(begun, sum(sampled), work)

    async def _prompts(self, work: Work) -> list[list[int]]:
        """The work's prompts, none of which vLLM remembers."""
        import torch

        await self._engine._llm.reset_prefix_cache()
        generator = torch.Generator().manual_seed(work.seed)
        shape = (work.groups, work.prompt)
        prompts: list[list[int]] = torch.randint(
            self._engine.describe().vocab_size, shape, generator=generator
        ).tolist()
        return prompts


def _seconds(begun: float, sampled: int, work: Work) -> float:
    seconds = time.perf_counter() - begun
    if sampled != work.tokens:
        raise ContenderFailedError(f"expected {work.tokens} tokens, got {sampled}")
    return seconds


async def _serve(model: Path, settings: RolloutSettings) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    engine = await open_vllm(model, settings, metrics, registry)
    identity = ReplicaIdentity("benchmark", "benchmark", identify_model(model))
    try:
        service, limits = GenerationService(engine, identity, metrics), ServerLimits()
        async with serve_generation(service, "127.0.0.1", 0, limits) as server:
            client = GenerationClient(f"127.0.0.1:{server.port}")
            served = _Served(engine, client)
            while line := await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await _answer(served, *json.loads(line))), file=answers, flush=True)
            await client.close()
    finally:
        await engine.close()


async def _answer(served: _Served, method: str, arguments: list[dict[str, int]]) -> dict[str, object]:
    try:
        return {"result": await getattr(served, method)(*(Work(**one) for one in arguments))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), RolloutSettings.model_validate_json(sys.argv[2])))
