"""The plan of a run: what each part of it does in a step, and how near to its limits it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ais.planning import measured
from ais.planning.rates import Gpu, activation_bytes, fitted_decoding, measured_overhead, measured_utilisation
from ais.planning.shapes import Shape

CACHE_SHARE = 0.9
"""Share of a replica's memory for weights and cache."""
QUEUED_TOKEN_BYTES, QUEUED_RESPONSE_BYTES = 8, 300
MOST_REPLICAS = 4096
"""That one offer of weights may be passed on to (docs/operations.md)."""


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    shape: Shape
    gpu: Gpu
    prompt: int
    """Tokens of a prompt."""
    response: int
    """Tokens of a response, on average."""
    longest: int
    """Tokens of the longest."""
    groups: int
    samples: int
    staleness: int
    """run.max_staleness"""
    trainer_gpus: int
    replicas: int | None
    """None: as many as keep the trainer busy."""
    replica_gpus: int
    slots: int
    """Sequences that a replica samples at once, if they fit."""
    link: float
    """Bytes a second of each machine's network."""
    fanout: int
    deltas: bool
    pass_tokens: int
    """Tokens of a forward pass of a rank, layers computed again in the backward pass."""
    utilisation: float | None = None
    """Share of the BF16 rate that training reaches. None: what was measured."""

    @property
    def sequences(self) -> int:
        return self.groups * self.samples


@dataclass(frozen=True)
class Version:
    """A version of the policy on its way to every replica."""

    bytes: float
    """Sent to one replica."""
    depth: int
    """Levels of replicas below the trainer."""
    write: float
    """Seconds until it is written and, as a delta, encoded."""
    send: float
    """Seconds until the lowest level has it: each level sends to `fanout` below it, after it has all itself."""
    apply: float
    """Seconds until a replica has made its weights of it."""

    @property
    def seconds(self) -> float:
        return self.write + self.send + self.apply


@dataclass(frozen=True)
class Limit:
    """What a part carries, and what it has to."""

    name: str
    load: float
    capacity: float
    unit: str

    @property
    def used(self) -> float:
        return self.load / self.capacity


@dataclass(frozen=True)
class Plan:
    """What follows. Seconds, bytes, tokens a second."""

    replicas: int
    slots: int
    decode: float
    """Time of one decode step."""
    replica_rate: float
    sampling: float
    """Time to sample a batch, all replicas busy."""
    slowest: float
    """Time of the longest response."""
    training: float
    """Time to train on a batch."""
    version: Version
    step: float
    wanted_staleness: int
    """run.max_staleness with which neither side waits for the other's delays."""
    trainer_memory: float
    replica_memory: float
    egress: float
    """Bytes of weights that the trainer sends in a step."""
    limits: tuple[Limit, ...]


def plan(job: Job) -> Plan:
    """Raises ValueError when the model does not fit a replica."""
    slots = _slots(job)
    decode = fitted_decoding().seconds(job.shape, job.gpu, slots, job.prompt + job.response / 2, job.replica_gpus)
    rate, training = slots / decode, _training_seconds(job)
    replicas = job.replicas or max(1, math.ceil(job.sequences * job.response / (rate * training)))
    sampling = job.sequences * job.response / (replicas * rate)
    slowest, version = job.longest * decode, version_of(job, replicas)
    cycle = max(sampling, slowest) + training + version.seconds
    busiest = max(sampling, training)
    step = max(busiest, cycle / (job.staleness + 1))
    trainer_memory, replica_memory = _trainer_memory(job), _replica_memory(job, slots)
    return Plan(
        replicas, slots, decode, rate, sampling, slowest, training, version, step,
        wanted_staleness=math.ceil(cycle / busiest) - 1,
        trainer_memory=trainer_memory,
        replica_memory=replica_memory,
        egress=min(job.fanout, replicas) * version.bytes,
        limits=_limits(job, replicas, step, version, trainer_memory, replica_memory),
    )  # fmt: skip


def levels(replicas: int, fanout: int) -> int:
    """Levels of a tree below the trainer whose every node sends to `fanout` others."""
    depth, reached, width = 0, 0, 1
    while reached < replicas:
        width *= fanout
        reached += width
        depth += 1
    return depth


def version_of(job: Job, replicas: int) -> Version:
    """Writing, encoding and applying take time by the size of the model."""
    whole = 2.0 * job.shape.parameters
    size = whole / (measured.VERSION.value * 1e6)
    sent = whole * measured.DELTA.value / measured.VERSION.value if job.deltas else whole
    depth = levels(replicas, job.fanout)
    return Version(
        bytes=sent,
        depth=depth,
        write=size * (measured.WRITE.value + (measured.ENCODE.value if job.deltas else 0.0)),
        send=depth * min(job.fanout, replicas) * sent / job.link,
        apply=size * measured.APPLY.value,
    )


def _slots(job: Job) -> int:
    room = CACHE_SHARE * job.gpu.memory * job.replica_gpus - job.shape.served_bytes(fp8=True)
    fit = int(room / (job.shape.cache_bytes * (job.prompt + job.response)))
    if fit < 1:
        raise ValueError("the model does not fit a replica: more GPUs for each")
    return min(job.slots, fit)


def _training_seconds(job: Job) -> float:
    length = job.prompt + job.response
    again = 4 / 3  # layers are computed again
    flops = again * job.shape.training_flops(length) * job.sequences * length
    share = job.utilisation or measured_utilisation()
    return measured_overhead() * flops / (job.trainer_gpus * share * job.gpu.bf16)


def _trainer_memory(job: Job) -> float:
    """Bytes on one GPU: float32 weights, two moments and gradients, a BF16 copy, all sharded; one layer and the output
    matrix gathered; a pass's activations of one layer, and the input of each."""
    shape = job.shape
    gathered = 2.0 * (shape.matrices / shape.layers + shape.embedding)
    per_token = activation_bytes() * shape.hidden + 2.0 * shape.hidden * shape.layers
    return 18.0 * shape.parameters / job.trainer_gpus + gathered + per_token * job.pass_tokens


def _replica_memory(job: Job, slots: int) -> float:
    cache = slots * (job.prompt + job.response) * job.shape.cache_bytes
    return (job.shape.served_bytes(fp8=True) + cache) / job.replica_gpus


def _limits(
    job: Job, replicas: int, step: float, version: Version, trainer_memory: float, replica_memory: float
) -> tuple[Limit, ...]:
    trajectories = job.sequences / step
    queued = trajectories * (job.response * QUEUED_TOKEN_BYTES + QUEUED_RESPONSE_BYTES)
    return (
        Limit("memory of a trainer's GPU", trainer_memory / 1e9, job.gpu.memory / 1e9, "GB"),
        Limit("memory of a replica's GPU", replica_memory / 1e9, job.gpu.memory / 1e9, "GB"),
        Limit("Redis, trajectories", trajectories, measured.QUEUE_TRAJECTORIES.value, "a second"),
        Limit("Redis, bytes", queued / 1e6, measured.QUEUE_BYTES.value, "MB a second"),
        Limit("collector", trajectories * measured.COLLECTOR.value / 1e3, 1.0, "cores"),
        Limit("trainer's link", min(job.fanout, replicas) * version.bytes / step / 1e6, job.link / 1e6, "MB a second"),
        Limit("writing a version", version.write, step, "s of a step"),
        Limit("applying a version", version.apply, step, "s of a step"),
        Limit("replicas of one offer", replicas, MOST_REPLICAS, "replicas"),
    )
