"""A client that behaves: it samples, asks what a replica is, reads its version and scrapes metrics, one call after
another of each kind, and notes how long each takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import ceil

import httpx

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds
from ais.runtime.security.roles import Role
from benchmarks.floods.services import Address, Services

DEADLINE_SECONDS = 5.0
"""Within which each call is to be answered."""
PAUSE_SECONDS = 0.05
PROMPT = [4, 5, 6]
TOKENS = 8
VOCABULARY = 22


@dataclass
class Calls:
    """What became of the calls of one kind."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Why, for each that failed or came too late."""

    def quantile(self, share: float) -> float:
        """Seconds within which that share was answered; the deadline where none was."""
        ordered = sorted(self.seconds) or [DEADLINE_SECONDS]
        return ordered[ceil(share * len(ordered)) - 1]


async def behave(services: Services, seconds: float) -> dict[str, Calls]:
    """Calls for so long, by their kind."""
    roles = (Role.COLLECTOR, Role.TRAINER, Role.METRICS)
    collector, trainer, metrics = (services.keyring.credential(role) for role in roles)
    sampling, bounds = SamplingParameters(max_new_tokens=TOKENS), TrajectoryBounds(VOCABULARY)
    async with AsyncExitStack() as stack:
        lasting = GenerationClient(str(services.generation), credential=collector)
        stack.push_async_callback(lasting.close)

        async def sample() -> None:
            """Over a connection that lasts."""
            await lasting.generate("good", PROMPT, 1, sampling, bounds, DEADLINE_SECONDS)

        async def sample_anew() -> None:
            """Over a connection of its own, as everything below."""
            client = GenerationClient(str(services.generation), credential=collector)
            try:
                await client.generate("good", PROMPT, 1, sampling, bounds, DEADLINE_SECONDS)
            finally:
                await client.close()

        async def read_version() -> None:
            await _get(services.control, "/v1/weights", trainer.headers())

        async def scrape() -> None:
            await _get(services.shared, "/metrics", metrics.headers())

        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "sample": sample,
            "sample_anew": sample_anew,
            "read_version": read_version,
            "scrape": scrape,
        }
        found = await asyncio.gather(*(_repeat(call, seconds) for call in kinds.values()))
        return dict(zip(kinds, found, strict=True))


async def _repeat(call: Callable[[], Awaitable[None]], seconds: float) -> Calls:
    calls, end = Calls(), time.perf_counter() + seconds
    while True:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await call()
            calls.seconds.append(time.perf_counter() - begun)
        except Exception as error:  # whatever it is: the service did not do what it should
            calls.failed.append(f"{type(error).__name__}: {error}"[:200])
        if time.perf_counter() > end:
            return calls
        await asyncio.sleep(PAUSE_SECONDS)


async def _get(address: Address, path: str, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_SECONDS) as client:
        (await client.get(f"http://{address}{path}", headers=headers)).raise_for_status()
