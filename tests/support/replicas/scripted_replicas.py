"""A run for a real collector: a real Valkey server, and real gRPC replicas whose behaviour the test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ais.collector.collector import Collector
from ais.collector.exercise import Exercise
from ais.collector.judging.hosts import Host
from ais.collector.judging.judge import Judge
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Split
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.replicas.proof import Expected
from ais.collector.settings import CollectorSettings, DynamicSamplingSettings, PromptSettings, TaskSettings
from ais.collector.tasks.task import open_task
from ais.collector.trainer_watch import TrainerChannel
from ais.contracts.events import TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import (
    ScoredGroup,
    TrajectoryBounds,
    decode_group,
    encode_trajectory,
)
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.security.certificates import Certificates
from ais.runtime.settings import RunSettings
from tests.support.judges import own_judge
from tests.support.records import replica_record, trajectory_of

ALPHABET = "_^$0123456789="
BOUNDS = TrajectoryBounds(vocab_size=len(ALPHABET))
MODEL = ModelIdentity("blake3:model", "blake3:tokenizer")
"""What the run expects its replicas to have."""
Behaviour = Callable[[rollout_pb2.GenerateRequest, grpc.aio.ServicerContext], AsyncIterator[pb.Trajectory]]


def tokenizer() -> PolicyTokenizer:
    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(ALPHABET)}, unk_token="_"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    characters.add_special_tokens(["_", "^", "$"])
    return PolicyTokenizer(PreTrainedTokenizerFast(tokenizer_object=characters), PromptSettings())


def sample(request: rollout_pb2.GenerateRequest, index: int, correct: bool) -> pb.Trajectory:
    """The prompt's digits, sorted if `correct`, ended by the stop token."""
    prompt = np.frombuffer(request.prompt_token_ids, dtype="<i4")[:-1]
    tokens = np.append(np.sort(prompt) if correct else prompt[::-1], ALPHABET.index("$")).astype(np.int32)
    return encode_trajectory(
        trajectory_of(
            tokens,
            request.group_id,
            index,
            np.full(len(tokens), -0.5, dtype=np.float32),
            sampling=SamplingParameters.from_proto(request.sampling),
            engine="scripted",
            replica_id="scripted",
        )
    )


async def honest(request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
    """Answers in reverse order, the first sample right and the others wrong."""
    for index in reversed(range(request.samples)):
        yield sample(request, index, correct=index == 0)


class Servicer(rollout_pb2_grpc.RolloutServicer):
    """Says that it is `description`, and answers as `behaviour` does."""

    def __init__(
        self,
        behaviour: Behaviour,
        description: rollout_pb2.DescribeResponse | None = None,
        serving: Callable[[], tuple[int, str]] = lambda: (0, ""),
    ) -> None:
        """`serving`: version and digest of the weights that sample now."""
        self.behaviour = behaviour
        self.description = description or rollout_pb2.DescribeResponse()
        self.serving = serving
        self.calls = 0
        self.port = 0
        self.described: asyncio.Event | None = None
        """Where set, Describe answers once it is."""

    async def Describe(  # noqa: N802
        self, _request: rollout_pb2.DescribeRequest, _context: grpc.aio.ServicerContext
    ) -> rollout_pb2.DescribeResponse:
        if self.described is not None:
            await self.described.wait()
        return self.description

    async def Generate(  # noqa: N802
        self, request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        self.calls += 1
        async for trajectory in self.behaviour(request, context):
            for span in trajectory.spans:
                if not span.version and not span.digest:
                    span.version, span.digest = self.serving()
            yield trajectory


class Stage:
    """One run: its queue, registry and events, and whatever replicas the test puts on it."""

    def __init__(self, redis: Redis, run_name: str, staleness: int = 0) -> None:
        keys = Keys(run_name)
        self.run = RunSettings(name=run_name, steps=3, groups_per_batch=4, samples_per_group=2, max_staleness=staleness)
        self.redis = redis
        self.queue = TrajectoryQueue(redis, keys)
        self.registry = ReplicaRegistry(redis, keys)
        self.events = TrainerEvents(redis, keys)
        self.keys = keys
        self.metrics = CollectorRegistry()
        self.serving: dict[str, tuple[int, str]] = {}
        """What each replica says it serves."""
        self.max_attempts = 50
        self.deadline_seconds = 5.0
        self.stall_seconds = 30.0
        self.not_ready: Callable[[], str | None] = lambda: None
        self.dynamic_sampling = DynamicSamplingSettings()
        self.made: Collector | None = None
        """The collector at work."""
        self.judge: Judge | None = None
        """None: the task's own verifier, in this process."""
        self.hosts: dict[str, Host] = {}
        """Environments, by the source of the prompts."""

    def trainer(self, incarnation: int) -> TrainerEvents:
        """What a later trainer of the run tells."""
        return TrainerEvents(self.redis, self.keys, incarnation)

    @asynccontextmanager
    async def replica(
        self,
        name: str,
        behaviour: Behaviour,
        version: int = 0,
        slots: int = 64,
        digest: str = "",
        certificates: Certificates | None = None,
        **describes: object,
    ) -> AsyncIterator[Servicer]:
        """`describes`: what Describe says otherwise than an honest replica of the run."""
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        servicer = Servicer(behaviour, self.description(name, **describes), lambda: self.serving[name])
        rollout_pb2_grpc.add_RolloutServicer_to_server(servicer, server)
        if certificates is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", certificates.grpc_server())
        await server.start()
        servicer.port = port
        await self.register(name, port, version, slots, digest)
        try:
            yield servicer
        finally:
            await server.stop(None)

    def description(self, name: str, **describes: Any) -> rollout_pb2.DescribeResponse:
        """What an honest replica of the run says."""
        honest: dict[str, Any] = {
            "replica_id": name, "run_name": self.run.name, "model_type": "scripted", "vocab_size": len(ALPHABET),
            "max_model_len": 64, "model_digest": MODEL.model_digest, "tokenizer_digest": MODEL.tokenizer_digest,
        }  # fmt: skip
        return rollout_pb2.DescribeResponse(**honest | describes)

    async def register(self, name: str, port: int, version: int = 0, slots: int = 64, digest: str = "") -> None:
        record = replica_record(
            name,
            grpc_address=f"127.0.0.1:{port}",
            http_url="http://127.0.0.1:9",
            engine="scripted",
            model_type="scripted",
            vocab_size=len(ALPHABET),
            parameter_count=0,
            policy_version=version,
            policy_digest=digest,
            slots=slots,
        )
        self.serving[name] = version, digest
        # First the record, which outlives the test without a heartbeat: a reader strikes names that have none.
        await self.redis.set(self.keys.replica(name), record.model_dump_json())
        await self.redis.sadd(self.keys.replicas, name)

    @asynccontextmanager
    async def collector(self) -> AsyncIterator[asyncio.Task[None]]:
        await self.queue.prepare()
        self.metrics = CollectorRegistry()
        settings = CollectorSettings(
            task=TaskSettings(digits=6),
            group_deadline_seconds=self.deadline_seconds,
            max_attempts=self.max_attempts,
            stall_seconds=self.stall_seconds,
            dynamic_sampling=self.dynamic_sampling,
        )
        judge = self.judge or own_judge(settings.task)
        collector = Collector(
            self.run,
            settings,
            Exercise(open_task(settings.task, 0, Split.TRAIN), tokenizer(), judge, hosts=self.hosts),
            TrainerChannel(self.queue, TrainerEvents(self.redis, self.keys)),
            self.registry,
            Expected(self.run.name, MODEL),
            CollectorMetrics(self.metrics, settings.task.all_component_labels, self.run.groups_per_batch),
        )
        self.not_ready, self.made = collector.not_ready, collector
        stop = asyncio.Event()
        task = asyncio.create_task(collector.run(stop))
        try:
            yield task
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)

    async def groups(self, count: int) -> list[ScoredGroup]:
        """Waits for `count` groups and returns them by ordinal."""
        groups: list[ScoredGroup] = []
        while len(groups) < count:
            groups += [decode_group(e.payload, BOUNDS) for e in await self.queue.read(count, block_seconds=5)]
        return sorted(groups, key=lambda group: group.ordinal)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0
