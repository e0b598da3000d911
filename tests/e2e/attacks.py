"""What a faulty peer can do to a live run that lets it in: each attack is one function.

It reaches Redis, has the run's tokens, and knows the wire. Strangers are another matter (test_closed_endpoints):
whoever is let in can still be broken, be of a second run, or talk to a server that was restored from a backup.
"""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import TOKENS
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from tests.support.access import bearer, metadata

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
DIGEST = f"blake3:{'0' * 64}"


@dataclass(frozen=True)
class Target:
    """A live run as one of its own finds it."""

    redis: Redis
    keys: Keys
    tokens: Path

    async def replicas(self) -> list[ReplicaRecord]:
        """The run's own."""
        return [one for one in await ReplicaRegistry(self.redis, self.keys).replicas() if one.engine == "torch"]


Attack = Callable[[Target], Awaitable[None]]
Lie = Callable[[pb.Trajectory], None]
Generate = Callable[
    [rollout_pb2.GenerateRequest, grpc.aio.ServicerContext, rollout_pb2_grpc.RolloutStub], AsyncIterator[pb.Trajectory]
]


@asynccontextmanager
async def target(directory: Path, run: str) -> AsyncIterator[Target]:
    redis = await connect(RedisSettings(url=(directory / "redis.url").read_text("utf-8").strip()))
    try:
        yield Target(redis, Keys(run), directory / TOKENS)
    finally:
        await redis.aclose()


# Strays in Redis.


async def events_that_no_trainer_wrote(target: Target) -> None:
    for fields in (
        {"kind": "resumed", "version": "0", "digest": DIGEST, "incarnation": "1"},
        {"kind": "version", "version": str(10**12), "digest": DIGEST, "incarnation": "1"},
        {"kind": "version", "version": "3", "digest": DIGEST, "incarnation": "999"},
        {"kind": "finished", "version": "1", "incarnation": "1"},
        {"kind": "discarded", "ordinal": "-5", "reason": "\x1b[2J\n" * 1000, "incarnation": "1"},
        {"kind": "resumed", "version": "three", "incarnation": "one"},
        {b"\xff\xfe": b"\x00" * 10_000},
        {"kind": "a kind of tomorrow", "version": "1", "incarnation": "1"},
    ):
        await target.redis.xadd(target.keys.events, fields)  # type: ignore[arg-type]


async def records_that_no_replica_wrote(target: Target) -> None:
    genuine = json.loads((await target.replicas())[0].model_dump_json())
    names: list[bytes | str] = [b"\xff\xfe\x00", "\x1b[31m", "x" * 10_000]
    values: list[bytes] = [b"\xff", b"[]", b"{", b"9" * 5000, b"[" * 10_000, b"x" * 100_000]
    changes: list[dict[str, object]] = [
        {"slots": 0},
        {"slots": 10**30},
        {"grpc_address": "127.0.0.1:99999"},
        {"grpc_address": "nowhere"},
        {"http_url": "file:///etc/passwd"},
        {"policy_version": "seven"},
        {"policy_version": 10**30},
        {"replica_id": "\n" * 300},
        {"running_sequences": -1},
    ]
    values += [json.dumps({**genuine, "replica_id": "stray", **change}).encode() for change in changes]
    for number, value in enumerate(values):
        name = names[number % len(names)] if number < 6 else f"stray-{number}"
        await target.redis.sadd(target.keys.replicas, name)
        prefix = target.keys.replica("").encode()
        await target.redis.set(prefix + (name if isinstance(name, bytes) else name.encode()), value, px=5000)


async def entries_that_no_collector_wrote(target: Target) -> None:
    for fields in (
        {"group": b"\xff" * 1000},
        {"ordinal": "-1"},
        {"ordinal": "9" * 400, "group": b""},
        {b"\xff": b"\x00"},
    ):
        await target.redis.xadd(target.keys.groups, fields)  # type: ignore[arg-type]


async def groups_that_poison(target: Target) -> None:
    """A group as the collector writes them, with one number that no optimizer survives."""
    for poison in (_huge_reward, _huge_logprobs, _nan_logprobs, _long_name):
        entry = await _newest_group(target)
        group = pb.ScoredGroup.FromString(entry)
        poison(group)
        await target.redis.xadd(
            target.keys.groups, {"ordinal": str(group.ordinal + 1_000), "group": group.SerializeToString()}
        )


async def unread_entries_are_trimmed(target: Target) -> None:
    await _newest_group(target)
    await target.redis.xtrim(target.keys.groups, maxlen=0, approximate=False)


async def the_server_forgets_everything(target: Target) -> None:
    await target.redis.flushall()


async def _newest_group(target: Target) -> bytes:
    while not (found := await target.redis.xrevrange(target.keys.groups, count=1)):
        await asyncio.sleep(0.02)
    return found[0][1][b"group"]


def _huge_reward(group: pb.ScoredGroup) -> None:
    group.rewards[0] = 3e38


def _huge_logprobs(group: pb.ScoredGroup) -> None:
    _logprobs(group.trajectories[0], -3e38)


def _nan_logprobs(group: pb.ScoredGroup) -> None:
    _logprobs(group.trajectories[0], float("nan"))


def _long_name(group: pb.ScoredGroup) -> None:
    group.group_id = "x" * 20_000_000


# A replica that registers, describes itself as the run's own do, and answers badly.


async def _refuses(
    request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext, honest: rollout_pb2_grpc.RolloutStub
) -> AsyncIterator[pb.Trajectory]:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the prompt is longer than \x1b[31mmy context\n" * 1000)
    yield pb.Trajectory()


async def _is_full(
    request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext, honest: rollout_pb2_grpc.RolloutStub
) -> AsyncIterator[pb.Trajectory]:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    yield pb.Trajectory()


async def _never_ends(
    request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext, honest: rollout_pb2_grpc.RolloutStub
) -> AsyncIterator[pb.Trajectory]:
    sampled = [one async for one in honest.Generate(request, timeout=30, metadata=_presented(context))]
    while True:
        for one in sampled:
            yield one
        await asyncio.sleep(0)


def lying(lie: Lie) -> Generate:
    """A replica that passes on what an honest one sampled, changed by `lie`."""

    async def generate(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext, honest: rollout_pb2_grpc.RolloutStub
    ) -> AsyncIterator[pb.Trajectory]:
        async for one in honest.Generate(request, timeout=30, metadata=_presented(context)):
            lie(one)
            yield one

    return generate


def _logprobs(trajectory: pb.Trajectory, value: float) -> None:
    count = len(trajectory.behaviour_logprobs) // 4
    trajectory.behaviour_logprobs = np.full(count, value, dtype="<f4").tobytes()


def _other_temperature(trajectory: pb.Trajectory) -> None:
    trajectory.sampling.temperature = 0.5


def _same_index(trajectory: pb.Trajectory) -> None:
    trajectory.sample_index = 0


def _far_index(trajectory: pb.Trajectory) -> None:
    trajectory.sample_index = 4_000_000_000


def _other_weights(trajectory: pb.Trajectory) -> None:
    for span in trajectory.spans:
        span.digest = DIGEST


def _more_tokens(trajectory: pb.Trajectory) -> None:
    trajectory.token_ids *= 1000
    trajectory.behaviour_logprobs *= 1000
    trajectory.spans[0].end = len(trajectory.token_ids) // 4


def _another_group(trajectory: pb.Trajectory) -> None:
    trajectory.group_id = "another"


def _version_to_come(trajectory: pb.Trajectory) -> None:
    for span in trajectory.spans:
        span.version += 1_000_000


LIES: dict[str, Generate] = {
    "refuses": _refuses,
    "is full": _is_full,
    "never ends": _never_ends,
    "another temperature": lying(_other_temperature),
    "the same index": lying(_same_index),
    "an index that was not asked for": lying(_far_index),
    "other weights under the right number": lying(_other_weights),
    "more tokens than asked for": lying(_more_tokens),
    "another group": lying(_another_group),
    "a version to come": lying(_version_to_come),
    "log-probs without end": lying(lambda one: _logprobs(one, -3e38)),
    "log-probs that are no numbers": lying(lambda one: _logprobs(one, float("nan"))),
}


def _presented(context: grpc.aio.ServicerContext) -> list[tuple[str, str]]:
    """The collector's token, which every replica that it calls gets to see."""
    return [(name, value) for name, value in context.invocation_metadata() if name == "authorization"]


class _Rogue(rollout_pb2_grpc.RolloutServicer):
    def __init__(self, name: str, generate: Generate, honest: rollout_pb2_grpc.RolloutStub) -> None:
        self._name = name
        self._generate = generate
        self._honest = honest
        self.asked = asyncio.Event()

    async def Describe(  # noqa: N802
        self, request: rollout_pb2.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.DescribeResponse:
        answer: rollout_pb2.DescribeResponse = await self._honest.Describe(
            request, timeout=30, metadata=_presented(context)
        )
        answer.replica_id = self._name
        return answer

    async def Generate(  # noqa: N802
        self, request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        self.asked.set()
        async for one in self._generate(request, context, self._honest):
            yield one


def rogue(generate: Generate) -> Attack:
    """A replica like the run's own in all that it says of itself. The attack ends when it has been given work."""

    async def attack(target: Target) -> None:
        name = f"rogue-{uuid.uuid4().hex[:6]}"
        genuine = (await target.replicas())[0]
        async with grpc.aio.insecure_channel(genuine.grpc_address, UNLIMITED) as channel:
            servicer = _Rogue(name, generate, rollout_pb2_grpc.RolloutStub(channel))
            server = grpc.aio.server(options=UNLIMITED)
            rollout_pb2_grpc.add_RolloutServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            registry = ReplicaRegistry(target.redis, target.keys)
            try:
                async with asyncio.timeout(180):
                    while not servicer.asked.is_set():
                        newest = (await target.replicas())[0]
                        change = {"replica_id": name, "grpc_address": f"127.0.0.1:{port}", "engine": "rogue"}
                        idle = {"running_sequences": 0, "waiting_sequences": 0, "http_url": "http://127.0.0.1:9"}
                        await registry.heartbeat(newest.model_copy(update=change | idle))
                        with suppress(TimeoutError):
                            await asyncio.wait_for(servicer.asked.wait(), 0.1)
                await asyncio.sleep(1.0)  # it goes on lying while the run goes on
            finally:
                await registry.leave(name)
                await server.stop(None)

    return attack


# Calls to the run's own replicas.


async def generation_calls_without_measure(target: Target) -> None:
    """Each is refused: none of them may be sampled, or reserve memory for what it claims."""
    tokens = np.array([1, 2, 3], dtype="<i4").tobytes()
    asked = pb.SamplingParameters(temperature=1.0, top_p=1.0, max_new_tokens=4)
    requests = [
        rollout_pb2.GenerateRequest(group_id="x", prompt_token_ids=b"\x01\x00\x00\x00" * 15_000_000, samples=1),
        rollout_pb2.GenerateRequest(group_id="x" * 20_000_000, prompt_token_ids=tokens, samples=1, sampling=asked),
        rollout_pb2.GenerateRequest(group_id="x", prompt_token_ids=tokens, samples=2**32 - 1, sampling=asked),
        rollout_pb2.GenerateRequest(group_id="x", prompt_token_ids=tokens[:-1], samples=1, sampling=asked),
        rollout_pb2.GenerateRequest(
            group_id="x",
            prompt_token_ids=tokens,
            samples=1,
            sampling=pb.SamplingParameters(temperature=1.0, top_p=1.0, max_new_tokens=2**32 - 1),
        ),
        rollout_pb2.GenerateRequest(
            group_id="x",
            prompt_token_ids=tokens,
            samples=1,
            sampling=pb.SamplingParameters(temperature=float("nan"), top_p=1.0, max_new_tokens=4),
        ),
    ]
    async with grpc.aio.insecure_channel((await target.replicas())[0].grpc_address, UNLIMITED) as channel:
        stub, token = rollout_pb2_grpc.RolloutStub(channel), metadata(Role.COLLECTOR, target.tokens)
        for request in requests:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                [one async for one in stub.Generate(request, timeout=20, metadata=token)]
            refused = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert refusal.value.code() in refused, refusal.value
            assert len(refusal.value.details() or "") < 10_000


async def five_hundred_calls_at_once(target: Target) -> None:
    """Each is answered, or refused as one too many."""
    asked = pb.SamplingParameters(temperature=1.0, top_p=1.0, max_new_tokens=4)
    prompt, token = np.array([1, 2, 3], dtype="<i4").tobytes(), metadata(Role.COLLECTOR, target.tokens)

    async def call(stub: rollout_pb2_grpc.RolloutStub, number: int) -> grpc.StatusCode:
        request = rollout_pb2.GenerateRequest(group_id=str(number), prompt_token_ids=prompt, samples=1, sampling=asked)
        try:
            _ = [one async for one in stub.Generate(request, timeout=60, metadata=token)]
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with grpc.aio.insecure_channel((await target.replicas())[0].grpc_address) as channel:
        stub = rollout_pb2_grpc.RolloutStub(channel)
        codes = set(await asyncio.gather(*(call(stub, number) for number in range(500))))
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes


async def offers_without_measure(target: Target) -> None:
    url = (await target.replicas())[0].http_url
    shard = {"name": "model.safetensors", "size": 1, "digest": DIGEST, "sent_size": 1, "sent_digest": DIGEST}
    offer = {"version": 10**6, "incarnation": 10**6, "digest": DIGEST, "encoding": "full", "shards": [shard]}
    bodies: list[bytes] = [
        b"{" * 200_000,
        b"\xff" * 1000,
        json.dumps({**offer, "shards": [shard] * 300_000}).encode(),
        json.dumps({**offer, "relay": [{"url": "http://127.0.0.1:9", "children": []}] * 30_000}).encode(),
        json.dumps({**offer, "shards": [{**shard, "sent_size": 10**18, "size": 10**18}]}).encode(),
        json.dumps({**offer, "version": -1}).encode(),
        json.dumps({**offer, "digest": "\x1b[31m" * 100_000}).encode(),
    ]
    headers = bearer(Role.TRAINER, target.tokens)
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, headers=headers) as client:
        for body in bodies:
            with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):  # cut off: refused as well
                answer = await client.put("/v1/weights/1000000", content=body)
                assert 400 <= answer.status_code < 500, answer.text[:200]
                assert len(answer.content) < 10_000


async def headers_and_connections_without_end(target: Target) -> None:
    address = urlsplit((await target.replicas())[0].http_url)
    assert address.hostname
    assert address.port
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ")
    sent = 0
    with suppress(ConnectionError):
        while sent < 8 << 20 and not reader.at_eof():
            writer.write(b"x" * 65_536)
            await asyncio.wait_for(writer.drain(), 10)
            sent += 65_536
            await asyncio.sleep(0)
    writer.close()
    assert sent < 8 << 20, "a header of eight megabytes was read to its end"
    async with AsyncExitStack() as stack:
        for _ in range(200):  # idle, as long as the attack lasts
            idle = stack.enter_context(socket.socket())
            idle.setblocking(False)
            with suppress(BlockingIOError):
                idle.connect((address.hostname, address.port))
        await asyncio.sleep(1.0)


ATTACKS: dict[str, Attack] = {
    "events": events_that_no_trainer_wrote,
    "records": records_that_no_replica_wrote,
    "entries": entries_that_no_collector_wrote,
    "poison": groups_that_poison,
    "trimmed": unread_entries_are_trimmed,
    **{f"a replica: {name}": rogue(generate) for name, generate in LIES.items()},
    "generation": generation_calls_without_measure,
    "calls at once": five_hundred_calls_at_once,
    "offers": offers_without_measure,
    "headers, connections": headers_and_connections_without_end,
    "forgotten": the_server_forgets_everything,
}
