"""The life of a replica: load, listen, register; on a signal drain, leave, end."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry

from ais.contracts.keys import Keys
from ais.contracts.model_identity import identify_model
from ais.contracts.redis_commands import replica_commands
from ais.contracts.registry import REPLICA, ReplicaRecord, ReplicaRegistry
from ais.rollout.engine import Engine, EngineFailedError, ModelUnsupportedError
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.registration import Registration, replica_record
from ais.rollout.settings import RolloutProcessSettings, RolloutSettings
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.rollout.weights.relay import Relay
from ais.rollout.weights.staging import staging_directory
from ais.rollout.weights.standing import Lease
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.addresses import authority
from ais.runtime.network.http import serve
from ais.runtime.network.redis import connect
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.tasks import end_tasks

logger = logging.getLogger(__name__)


async def serve_replica(settings: RolloutProcessSettings, stop: asyncio.Event) -> None:
    """The whole life of a replica's process. Raises EngineFailedError when the engine breaks."""
    rollout = settings.rollout
    keyring = open_keyring(settings.security, settings.run, rollout__host=rollout.host)
    if keyring.certificates is not None:  # a run's settings may name another service's, and be used for its evaluation
        keyring.certificates.check_says(REPLICA)
    door, relaying = keyring.door(*Role), keyring.credential(Role.TRAINER)
    registry = service_registry("rollout", settings.run.name)
    metrics = RolloutMetrics(registry)
    redis = await connect(settings.redis, replica_commands(Keys(settings.run.name)))
    engine = await open_engine(settings.run.model, rollout, metrics, registry, settings.run.routing_replay)
    model = await asyncio.to_thread(identify_model, settings.run.model)
    failure: asyncio.Future[EngineFailedError] = asyncio.get_running_loop().create_future()
    engine.on_failure(failure.set_result)
    replica_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    metrics.watch(engine, replica_id)

    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(engine.close)
        staging = stack.enter_context(staging_directory("ais-rollout-", rollout.staging_directory))
        draining = asyncio.Event()

        def record() -> ReplicaRecord:
            ready = not draining.is_set() and not failure.done()
            tls = keyring.certificates is not None
            probe = intake.probe_gap, intake.probe_allowed
            return replica_record(engine, rollout, replica_id, generation.port, http_port, ready, tls, *probe)

        def applied() -> None:
            service.note_version()
            registration.changed()

        async def lease() -> Lease | None:
            keys = Keys(settings.run.name)
            identity, incarnation = cast(list[bytes | None], await redis.mget([keys.identity, keys.incarnation]))
            if identity is None:
                return None
            newest = int(incarnation) if incarnation and incarnation.isdigit() else 0
            return Lease(identity.decode(errors="backslashreplace"), newest)

        replicas = ReplicaRegistry(redis, Keys(settings.run.name))
        registration = Registration(replicas, record, metrics)
        intake = WeightIntake(
            engine,
            staging,
            metrics,
            applied=applied,
            threads=rollout.unpack_threads,
            relay=Relay(metrics, replicas.urls, settings.run.use_proxy, relaying),
            lease=lease,
            model=() if rollout.engine == "replay" else snapshot_files(settings.run.model),
            shared=rollout.shared_directory,
        )
        stack.push_async_callback(intake.close)

        def not_ready() -> str | None:
            if failure.done():
                return str(failure.result())
            return "draining" if draining.is_set() else registration.failure

        service = GenerationService(engine, ReplicaIdentity(replica_id, settings.run.name, model), metrics)
        limits = ServerLimits.of_engine(engine.describe().max_model_len, rollout.slots + rollout.max_waiting_sequences)
        generation = await stack.enter_async_context(
            serve_generation(service, rollout.host, rollout.grpc_port, limits, door)
        )
        app = control_application(registry, not_ready, intake)
        http_port = await stack.enter_async_context(serve(app, rollout.host, rollout.http_port, door))
        heartbeat = asyncio.create_task(registration.keep(), name="heartbeat")
        logger.info(
            "serving",
            extra={
                "replica": replica_id,
                "grpc": authority(rollout.host, generation.port),
                "http": authority(rollout.host, http_port),
                "precision": str(rollout.precision),
            },
        )

        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, heartbeat, failure), return_when=asyncio.FIRST_COMPLETED)
        draining.set()
        intake.draining = True
        await end_tasks(stopping, heartbeat)
        await generation.refuse_new_calls()
        if failure.done():
            await registration.leave()
            raise failure.result()
        if not heartbeat.cancelled():
            heartbeat.result()  # it ends by itself only by an error
        logger.info("draining", extra={"seconds": rollout.drain_seconds})
        await asyncio.gather(registration.leave(), engine.drain(rollout.drain_seconds))


async def open_engine(
    model: Path,
    settings: RolloutSettings,
    metrics: RolloutMetrics,
    registry: CollectorRegistry,
    routing_replay: bool = False,
) -> Engine:
    """Raises UnavailableError when the model cannot be served, SettingsError when not in that precision."""
    try:
        if settings.engine == "vllm":
            from ais.rollout.engines.vllm_engine.opening import open_vllm

            return await open_vllm(model, settings, metrics, registry, routing_replay)
        if settings.engine == "replay":
            from ais.rollout.engines.replay_engine.engine import ReplayEngine

            return await ReplayEngine.open(model, settings, metrics)
        import torch

        from ais.rollout.engines.torch_engine.devices import chosen_device
        from ais.rollout.engines.torch_engine.engine import TorchEngine

        torch.set_num_threads(settings.threads)
        return await TorchEngine.open(
            model,
            settings.precision,
            metrics,
            slots=settings.slots,
            max_model_len=settings.max_model_len,
            max_waiting_sequences=settings.max_waiting_sequences,
            probe_tolerance=settings.probe_tolerance or tolerance(settings.precision),
            device=chosen_device(settings.device),
            batch_invariant=settings.batch_invariant,
        )
    except ModelUnsupportedError as error:
        raise UnavailableError(str(error)) from error
