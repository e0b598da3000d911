"""A response that is read while it is sampled: the client, and `ais chat`'s process, against real gRPC servers."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.collector.replicas.progress import SampledTokens
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import Trajectory
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from tests.support.replicas.scripted_replicas import ALPHABET, BOUNDS, Servicer, honest, sample

PROMPT = [ALPHABET.index(character) for character in "312="]
ANSWER = [ALPHABET.index(character) for character in "123$"]
SAMPLING = SamplingParameters(max_new_tokens=4)
ROOT = Path(__file__).parents[3]
MODEL = ROOT / "examples" / "sort16" / "model"

Script = Callable[[rollout_pb2.GenerateRequest], AsyncIterator[rollout_pb2.Progress]]


def tokens(*token_ids: int, logprob: float = -0.5) -> rollout_pb2.Progress:
    logprobs = np.full(len(token_ids), logprob, dtype="<f4")
    return rollout_pb2.Progress(
        token_ids=np.array(token_ids, dtype="<i4").tobytes(), behaviour_logprobs=logprobs.tobytes()
    )


def finished(request: rollout_pb2.GenerateRequest) -> rollout_pb2.Progress:
    return rollout_pb2.Progress(finished=sample(request, 0, correct=True))


def up_to(text: str, request: rollout_pb2.GenerateRequest) -> rollout_pb2.Progress:
    """The beginning of that response, with all that the model's tokenizer puts before `text`."""
    whole = np.frombuffer(finished(request).finished.token_ids, dtype="<i4").tolist()
    return tokens(*whole[: whole.index(ALPHABET.index(text)) + 1])


class Streaming(Servicer):
    """Streams as its script says."""

    def __init__(self, script: Script) -> None:
        super().__init__(honest, rollout_pb2.DescribeResponse(vocab_size=len(ALPHABET), engine="scripted"))
        self.script = script
        self.cancelled = asyncio.Event()

    async def Stream(  # noqa: N802
        self, request: rollout_pb2.GenerateRequest, _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[rollout_pb2.Progress]:
        try:
            async for progress in self.script(request):
                yield progress
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def served(servicer: Servicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    rollout_pb2_grpc.add_RolloutServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def streamed(servicer: Servicer) -> tuple[list[SampledTokens], Trajectory]:
    async with served(servicer) as address:
        client, told = GenerationClient(address), list[SampledTokens]()
        try:
            return told, await client.stream("g", PROMPT, SAMPLING, BOUNDS, 20.0, told.append)
        finally:
            await client.close()


async def test_tokens_come_first_and_the_whole_at_the_end() -> None:
    async def script(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
        yield tokens(*ANSWER[:1])
        yield tokens(*ANSWER[1:3])
        yield finished(request)

    told, whole = await streamed(Streaming(script))
    assert told == [SampledTokens(ANSWER[:1], [-0.5]), SampledTokens(ANSWER[1:3], [-0.5, -0.5])]
    assert whole.token_ids.tolist() == ANSWER


async def test_a_replica_of_an_earlier_release_answers_with_the_whole() -> None:
    told, whole = await streamed(Servicer(honest))
    assert not told
    assert whole.token_ids.tolist() == ANSWER


async def test_a_replica_that_tells_no_log_probs_answers_with_the_whole() -> None:
    async def script(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
        yield rollout_pb2.Progress(token_ids=tokens(*ANSWER[:2]).token_ids)
        yield finished(request)

    told, whole = await streamed(Streaming(script))
    assert not told
    assert whole.token_ids.tolist() == ANSWER


async def endless(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    while True:
        yield tokens(ANSWER[0])


async def unknown(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    yield tokens(len(ALPHABET))


async def empty(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    yield rollout_pb2.Progress()


async def without_logprobs(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    while True:
        yield rollout_pb2.Progress(token_ids=tokens(ANSWER[0]).token_ids)


async def fewer_logprobs(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    yield rollout_pb2.Progress(
        token_ids=tokens(*ANSWER[:2]).token_ids, behaviour_logprobs=tokens(ANSWER[0]).behaviour_logprobs
    )
    yield finished(request)


async def another_token_than_in_the_end(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    yield tokens(ANSWER[1])
    yield finished(request)


async def another_logprob_than_in_the_end(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    yield tokens(ANSWER[0], logprob=-0.25)
    yield finished(request)


async def nothing(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    return
    yield


async def of_another(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
    request.group_id = "other"
    yield finished(request)


BROKEN = [endless, unknown, empty, without_logprobs, fewer_logprobs, nothing, of_another]
BROKEN += [another_token_than_in_the_end, another_logprob_than_in_the_end]


@pytest.mark.parametrize("script", BROKEN, ids=lambda script: script.__name__)
async def test_what_was_not_asked_for_ends_the_call(script: Script) -> None:
    with pytest.raises(GenerationError) as refused:
        await streamed(Streaming(script))
    assert refused.value.reason == "malformed"


async def test_a_streamed_call_counts_as_one_and_ends_when_its_replica_is_given_up() -> None:
    async def script(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
        yield tokens(ANSWER[0])
        await asyncio.Event().wait()

    servicer, told = Streaming(script), asyncio.Event()
    async with served(servicer) as address:
        client = GenerationClient(address)
        call = asyncio.create_task(client.stream("g", PROMPT, SAMPLING, BOUNDS, 60.0, lambda _: told.set()))
        await told.wait()
        assert client.calls == 1
        client.abandon("the replica is gone")
        with pytest.raises(GenerationError, match="the replica is gone"):
            await call
        assert client.calls == 0
        await asyncio.wait_for(servicer.cancelled.wait(), 60)
        await client.close()


@asynccontextmanager
async def chat(address: str, directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    config = directory / "config.toml"
    config.write_text(f'[run]\nmodel = "{MODEL}"\n[collector.sampling]\nmax_new_tokens = 5\n')
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]  # as a background job of a shell begins
    command = [*ignoring, sys.executable, "-m", "ais.collector.chat", "-c", str(config), "--replica", address]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ask(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    await process.stdin.drain()


async def read(process: asyncio.subprocess.Process, size: int) -> str:
    assert process.stdout is not None
    return (await process.stdout.readexactly(size)).decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_character_is_on_the_terminal_while_the_next_is_not_yet_sampled(tmp_path: Path) -> None:
    more = asyncio.Event()

    async def script(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
        yield up_to("1", request)
        await more.wait()
        yield finished(request)

    async with served(Streaming(script)) as address, chat(address, tmp_path) as process:
        await ask(process, b"312=\n")
        assert await read(process, 1) == "1"
        more.set()
        assert await read(process, 3) == "23\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ctrl_c_in_the_midst_of_an_answer_ends_cleanly_and_the_call_with_it(tmp_path: Path) -> None:
    async def script(_: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
        yield tokens(ANSWER[0])
        await asyncio.Event().wait()

    servicer = Streaming(script)
    async with served(servicer) as address, chat(address, tmp_path) as process:
        await ask(process, b"312=\n")
        assert await read(process, 1) == "1"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()
        await asyncio.wait_for(servicer.cancelled.wait(), 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_answer_that_breaks_off_says_why_and_the_conversation_goes_on(tmp_path: Path) -> None:
    broken = [True]

    async def script(request: rollout_pb2.GenerateRequest) -> AsyncIterator[rollout_pb2.Progress]:
        yield up_to("1", request)
        if broken.pop() if broken else False:
            yield tokens(len(ALPHABET))
        yield finished(request)

    async with served(Streaming(script)) as address, chat(address, tmp_path) as process:
        await ask(process, b"312=\n312=\n")
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"1 (no answer: ")
        assert await read(process, 4) == "123\n"
