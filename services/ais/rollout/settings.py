"""Settings of a rollout replica: section [rollout]."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ais.contracts.sampling import Precision
from ais.runtime.logging import LoggingSettings
from ais.runtime.network.addresses import Host, reachable_host
from ais.runtime.security.settings import SecuritySettings
from ais.runtime.settings import (
    MOST,
    CountOrNone,
    Port,
    RedisSettings,
    RunSettings,
    Seconds,
    SecondsOrNone,
    Section,
    Threads,
)

Fp8Kernel = Literal["stock", "bf16_copy"]


class VllmSettings(Section):
    """What only the vLLM engine has."""

    tensor_parallel_size: Threads = 1
    """GPUs that share each layer."""
    data_parallel_size: Threads = 1
    """Copies of the model in this replica, behind one address."""
    memory_fraction: float = Field(default=0.9, gt=0.0, le=1.0)
    """GPU: share of its memory for weights, activations and the key-value cache."""
    cpu_cache_gib: int = Field(default=1, ge=1, le=65_536)
    """CPU: size of the key-value cache."""
    compile: bool | None = None
    """Whether vLLM compiles the model and captures CUDA graphs. None: on a GPU; on a CPU it takes minutes."""
    update: Literal["in_flight", "finish"] = "in_flight"
    """What happens to running sequences when a new version comes. in_flight: they go on with it, their key-value cache
    computed again; finish: new requests wait, running ones end with the version they began with, then it changes."""
    update_seconds: Seconds = 300.0
    """Deadline of one change of weights, pause to resume. An engine that exceeds it has failed, its process ends."""
    cpu_fp8_kernel: Fp8Kernel = "bf16_copy"
    """CPU: how FP8 products are computed. bf16_copy keeps the rounded weights in BF16, which is exact, and is many
    times faster than vLLM's own (stock) on CPUs without FP8 instructions, at the price of BF16's memory; its results
    are rounded to BF16 once more before they are scaled. A mixture of experts has no stock one and is
    refused with it."""


class ReplaySettings(Section):
    """What only the replay engine has."""

    recording: Path | None = None
    """File of recorded groups (services/ais/contracts/recording.py). A prompt that is in it gets its own responses,
    another one those of any."""
    tokens_per_second: float = Field(default=50.0, gt=0.0, le=1e9)
    """Pace of one sequence. A replica's is `slots` times that."""
    first_token_seconds: SecondsOrNone = 0.02
    """From a sequence's beginning to its first token."""


class RolloutSettings(Section):
    """How a replica samples, and where it listens."""

    engine: Literal["torch", "vllm", "replay"] = "torch"
    """What samples. torch: a lean batched sampler for small models; vllm: vLLM, on GPUs or a CPU; replay:
    nothing, recorded responses come at a set pace, for load tests."""

    replicas: Threads = 2
    """Replicas that `ais run` starts. A replica itself does not read it."""
    precision: Precision = Precision()
    """Number formats the behaviour policy computes in."""
    probe_tolerance: float | None = Field(default=None, gt=0.0, le=100.0)
    """New weights are refused when their log-probs are further than this from the trainer's on the probe it sends with
    them: mean absolute gap, nats a token. It is multiplied by a fifth of the probe's mean -log p where that is more
    than 5 nats, as rounding errors are. None: what `precision` explains, 0.1 for BF16 to 1.0 for E2M1."""
    slots: int = Field(default=128, ge=1, le=1 << 20)
    """Sequences sampled at once. Each holds a row of the key-value cache of `max_model_len` positions."""
    max_model_len: int = Field(default=1024, ge=2, le=MOST)
    """Longest prompt plus response, in tokens; the model's own limit if that is lower."""
    max_waiting_sequences: CountOrNone = 1024
    """Sequences that may wait for a slot; a call that would exceed it is answered with RESOURCE_EXHAUSTED."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the torch engine computes; auto takes a GPU when there is one, the first that CUDA_VISIBLE_DEVICES names.
    vLLM's installation decides for itself."""
    threads: Threads = 1
    """Compute threads of the engine on a CPU."""
    batch_invariant: bool = False
    """Whether a seeded request gets the same tokens and log-probs, to the bit, whatever else is sampled beside it.
    torch: on a CPU, where it is tried at the start; vLLM: on a GPU, with BF16 weights. Elsewhere the start is refused.
    The replay engine computes nothing and does not read it."""
    vllm: VllmSettings = VllmSettings()
    """What only the vLLM engine has."""
    replay: ReplaySettings = ReplaySettings()
    """What only the replay engine has."""
    host: Host = "127.0.0.1"
    """Address the generation API (gRPC) and the control API (HTTP) listen on."""
    advertised_host: Host = ""
    """Name or address that other services reach this replica by. Empty: `host`, or this machine's name where `host` is
    0.0.0.0 or ::."""
    grpc_port: Port = 0
    """Port of the generation API; 0 takes a free one and registers it."""
    http_port: Port = 0
    """Port of the control API; 0 takes a free one and registers it."""
    staging_directory: Path | None = None
    """Where pushed weights are staged while they are verified, and kept while they serve. None: the system's directory
    for temporary files; /dev/shm keeps them in memory. Room for two versions, and the delta of each.
    What a replica left that was killed is removed by the next one that starts there."""
    shared_directory: Path | None = None
    """A directory of the trainer's machine from which versions are taken where it says that they lie there
    (`trainer.push.transfer`), by hard links into `staging_directory`, or by copies from another file system. Whoever
    may write there is trusted as the trainer is. None: everything comes over HTTP."""
    unpack_threads: Threads = 2
    """Threads that make a new version's files of the old one's and a delta, and that hash what is taken from
    `shared_directory`."""
    drain_seconds: SecondsOrNone = 3.0
    """After SIGTERM: how long running sequences may take to finish; others sample the groups that do not. Whatever
    kills the process must wait longer: launcher.stop_grace_seconds, stop_grace_period in docker-compose.yml."""

    @property
    def reachable_host(self) -> str:
        """What other services reach this replica by."""
        return self.advertised_host or reachable_host(self.host)


class RolloutProcessSettings(Section):
    """All that a replica's process reads from the settings file."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    security: SecuritySettings = SecuritySettings()
    rollout: RolloutSettings = RolloutSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        check_routing(self.run, self.rollout)
        return self


def check_routing(run: RunSettings, rollout: RolloutSettings) -> None:
    """Raises ValueError where routed experts are to be recorded by an engine that cannot."""
    if run.routing_replay and rollout.engine != "vllm":
        raise ValueError(
            f"run.routing_replay needs rollout.engine = 'vllm', which alone serves mixtures of experts; got "
            f"{rollout.engine!r}"
        )
