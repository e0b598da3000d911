"""Asks an HTTP reward service for scores: batches of a group, a deadline, retries with back-off, a secret header.

A request is a POST of `{"items": [{"id", "prompt", "response", "answer", "metadata", "finish_reason"}]}`; the answer is
`{"scores": [...]}` with one entry an item, in their order: a number, a mapping of names to numbers, or
`{"error": "why"}` for an item that it cannot judge.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ais.collector.judging.judgement import Failure, Judgement, Observe, Outcome, judgement_of, unobserved
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.response import Response
from ais.collector.settings.rewards import Service
from ais.runtime.process import UnavailableError
from ais.runtime.text import printable

LONGEST_WAIT_SECONDS = 10.0
"""The wait between two attempts doubles, with jitter, up to this."""
LONGEST_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer; a longer one is refused while it comes."""
LONGEST_SECRET = 64 * 1024
"""Bytes of a file with a secret."""

ObserveCall = Callable[[str, str, float], None]
"""Is told the component, the outcome (an HTTP status, `timeout`, `unreachable` or `malformed`) and the seconds of each
request."""

logger = logging.getLogger(__name__)


def call_unobserved(component: str, outcome: str, seconds: float) -> None:
    """For those who do not count requests."""


class _AgainError(Exception):
    """The request came to nothing, and may do better later."""


class ServiceRefusedError(Exception):
    """The request to a reward service came to nothing, and would again."""


class ServiceClient:
    """The client of one component. Use it as an async context manager."""

    def __init__(
        self,
        settings: Service,
        use_proxy: bool = False,
        observe: Observe = unobserved,
        observe_call: ObserveCall = call_unobserved,
    ) -> None:
        """Raises UnavailableError where the secret cannot be read."""
        self._settings = settings
        self._observe = observe
        self._observe_call = observe_call
        self._room = asyncio.Semaphore(settings.connections)
        self._client = httpx.AsyncClient(headers=secret_header(settings), timeout=None, trust_env=use_proxy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def judge(self, prompt: Prompt, responses: Sequence[Response]) -> list[Judgement]:
        """What the service says about each response, in their order."""
        size = self._settings.batch
        batches = [responses[first : first + size] for first in range(0, len(responses), size)]
        found = await asyncio.gather(*(self._batch(prompt, batch) for batch in batches))
        return [judgement for judgements in found for judgement in judgements]

    async def _batch(self, prompt: Prompt, batch: Sequence[Response]) -> list[Judgement]:
        began = time.monotonic()
        try:
            judgements = await self._asked({"items": [_item(prompt, response) for response in batch]}, len(batch))
        except (RetryError, _AgainError, ServiceRefusedError) as error:
            judgements = [Failure(Outcome.SERVICE, printable(f"{self._settings.url}: {error}"))] * len(batch)
        for judgement in judgements:
            outcome = judgement.outcome if isinstance(judgement, Failure) else Outcome.JUDGED
            self._observe(self._settings.label, outcome, time.monotonic() - began)
        return judgements

    async def _asked(self, question: dict[str, Any], count: int) -> list[Judgement]:
        body = json.dumps(question).encode()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_AgainError),
            stop=stop_after_attempt(self._settings.retries + 1),
            wait=wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS),
            reraise=True,
        ):
            with attempt:
                async with self._room:
                    return await self._post(body, count)
        raise AssertionError("unreachable: tenacity returns or raises")

    async def _post(self, body: bytes, count: int) -> list[Judgement]:
        began, outcome = time.monotonic(), "unreachable"
        try:
            async with asyncio.timeout(self._settings.deadline_seconds):
                status, answer = await self._exchanged(body)
            outcome = str(status)
            if status == 429 or status >= 500:
                raise _AgainError(f"answered {status}")
            if status != 200:
                raise ServiceRefusedError(f"answered {status}: {printable(answer, 200)}")
            outcome = "malformed"
            judgements = judgements_in(answer, count)
            outcome = "200"
            return judgements
        except TimeoutError as error:
            outcome = "timeout"
            raise _AgainError(f"did not answer within {self._settings.deadline_seconds:g} s") from error
        except httpx.HTTPError as error:
            raise _AgainError(f"{type(error).__name__}: {error}") from error
        finally:
            self._observe_call(self._settings.label, outcome, time.monotonic() - began)

    async def _exchanged(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self._client.stream("POST", self._settings.url, content=body, headers=headers) as response:
            answer = bytearray()
            async for part in response.aiter_bytes():
                answer += part
                if len(answer) > LONGEST_ANSWER:
                    raise ServiceRefusedError(f"answered more than {LONGEST_ANSWER} bytes")
            return response.status_code, bytes(answer)


def secret_header(settings: Service) -> dict[str, str]:
    """The header that carries the secret; none where the settings name none. Raises UnavailableError."""
    if settings.secret_environment:
        value = os.environ.get(settings.secret_environment, "")
        where = f"environment variable {settings.secret_environment}"
    elif settings.secret_file is not None:
        where = f"file {settings.secret_file}"
        try:
            with settings.secret_file.open("rb") as file:
                value = file.read(LONGEST_SECRET).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnavailableError(f"the secret of the reward service cannot be read: {where}: {error}") from error
    else:
        return {}
    if not value or not value.isascii() or not value.isprintable():
        raise UnavailableError(f"the secret of the reward service, {where}, is empty or no value of a header")
    return {settings.header: value}


def _item(prompt: Prompt, response: Response) -> dict[str, Any]:
    return {
        "id": prompt.prompt_id,
        "prompt": prompt.text,
        "response": response.text,
        "answer": prompt.answer,
        "metadata": dict(prompt.metadata),
        "finish_reason": response.finish_reason.value,
    }


def judgements_in(answer: bytes, count: int) -> list[Judgement]:
    """What an answer says of `count` responses. Raises ServiceRefusedError for an answer to something else."""
    try:
        scores = json.loads(answer)["scores"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ServiceRefusedError(f'expected {{"scores": [...]}}, got {printable(answer, 100)}') from error
    if not isinstance(scores, list) or len(scores) != count:
        raise ServiceRefusedError(f"expected {count} scores, one a response, got {printable(answer, 100)}")
    return [_judgement(score) for score in scores]


def _judgement(score: Any) -> Judgement:
    if isinstance(score, dict) and score.keys() == {"error"}:
        return Failure(Outcome.SERVICE, printable(str(score["error"])))
    return judgement_of(score)
