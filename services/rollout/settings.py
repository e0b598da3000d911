"""Settings of a rollout replica: section [rollout]."""

from __future__ import annotations

import socket

from pydantic import Field

from services.contracts.sampling import Precision
from services.runtime.logging import LoggingSettings
from services.runtime.settings import RedisSettings, RunSettings, Section

WILDCARD_HOSTS = ("0.0.0.0", "::", "")


class RolloutSettings(Section):
    """How a replica samples, and where it listens."""

    replicas: int = Field(default=2, ge=1)
    """Replicas that `ais run` starts. A replica itself does not read it."""
    precision: Precision = Precision()
    """Number formats the behaviour policy computes in."""
    probe_tolerance: float | None = Field(default=None, gt=0.0)
    """New weights are refused when their log-probs are further than this from the trainer's on the probe it sends with
    them: mean absolute gap, nats a token. None: what `precision` explains, 0.1 for BF16 to 1.0 for E2M1."""
    slots: int = Field(default=128, ge=1)
    """Sequences sampled at once. Each holds a row of the key-value cache of `max_model_len` positions."""
    max_model_len: int = Field(default=1024, ge=2)
    """Longest prompt plus response, in tokens; the model's own limit if that is lower."""
    max_waiting_sequences: int = Field(default=1024, ge=0)
    """Sequences that may wait for a slot; a call that would exceed it is answered with RESOURCE_EXHAUSTED."""
    threads: int = Field(default=1, ge=1)
    """Compute threads of the engine."""
    host: str = "127.0.0.1"
    """Address the generation API (gRPC) and the control API (HTTP) listen on."""
    advertised_host: str = ""
    """Name or address others reach this replica by. Empty: `host`, or this machine's name where `host` is 0.0.0.0."""
    grpc_port: int = Field(default=0, ge=0, le=65535)
    """Port of the generation API; 0 takes a free one and registers it."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Port of the control API; 0 takes a free one and registers it."""
    drain_seconds: float = Field(default=3.0, ge=0)
    """After SIGTERM: how long running sequences may take to finish."""

    @property
    def reachable_host(self) -> str:
        if self.advertised_host:
            return self.advertised_host
        return socket.gethostname() if self.host in WILDCARD_HOSTS else self.host


class RolloutProcessSettings(Section):
    """All that a replica's process reads from the settings file."""

    run: RunSettings = RunSettings()
    redis: RedisSettings = RedisSettings()
    rollout: RolloutSettings = RolloutSettings()
    logging: LoggingSettings = LoggingSettings()
