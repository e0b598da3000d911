"""Starting vLLM for a model: checked settings in, a serving engine out. This module imports vLLM only when it must."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from ais.contracts.routing.shape import RoutingShape, read_routing_shape
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.engine import Engine, EngineObserver, ModelUnsupportedError
from ais.rollout.engines.probe import tolerance
from ais.rollout.engines.snapshots import checked_tensors
from ais.rollout.engines.vllm_engine.arguments import engine_arguments, prepare_environment
from ais.rollout.engines.vllm_engine.model import ServedModel, read_model
from ais.rollout.engines.vllm_engine.precision import LinearMode, mode_of, this_host
from ais.rollout.engines.vllm_engine.support import require_invariance, require_support, this_installation
from ais.rollout.settings import RolloutSettings
from ais.rollout.weights.staging import staging_directory
from ais.runtime.settings import SettingsError
from ais.runtime.tasks import end_tasks

PROGRESS_SECONDS = 5.0
"""How often a start that takes long says that it goes on."""

logger = logging.getLogger(__name__)


async def open_vllm(
    directory: Path,
    settings: RolloutSettings,
    observer: EngineObserver,
    registry: CollectorRegistry,
    routing_replay: bool = False,
) -> Engine:
    """Serves a Hugging Face directory as policy version 0; with `routing_replay` completions have routed experts.

    Raises SettingsError for a precision that this host cannot compute, ModelUnsupportedError for a model that vLLM
    cannot serve and where vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ModelUnsupportedError(
            "rollout.engine=vllm needs vLLM: `make setup ENGINE=vllm`, or `pip install '.[vllm]'` on a GPU host"
        )
    routing = read_routing_shape(directory) if routing_replay else None
    installation = this_installation()
    require_support(directory, settings.precision, installation, settings.vllm.cpu_fp8_kernel)
    if settings.batch_invariant:
        require_invariance(settings.precision, installation)
    prepare_environment(settings)
    progress = asyncio.create_task(_tell_progress())
    try:
        return await _open(directory, settings, observer, registry, routing)
    finally:
        await end_tasks(progress)


async def _open(
    directory: Path,
    settings: RolloutSettings,
    observer: EngineObserver,
    registry: CollectorRegistry,
    routing: RoutingShape | None,
) -> Engine:
    from ais.rollout.engines.vllm_engine.engine import VllmEngine
    from ais.rollout.engines.vllm_engine.load import EngineStatistics, expose_vllm_metrics
    from ais.rollout.engines.vllm_engine.routing.routes import Routes
    from ais.rollout.engines.vllm_engine.updates import LiveWeights, Version
    from ais.rollout.engines.vllm_engine.watchdog import watchdog

    host = await asyncio.to_thread(this_host)
    if routing and host.device == "cpu" and settings.vllm.compile:
        raise SettingsError(
            "run.routing_replay on a CPU needs a model that is not compiled: unset rollout.vllm.compile"
        )
    mode = mode_of(settings.precision, host)
    model = await asyncio.to_thread(read_model, directory, settings.max_model_len)
    statistics: list[EngineStatistics] = []

    def statistics_of_rank(_config: Any, _rank: int) -> EngineStatistics:
        statistics.append(EngineStatistics(observer))
        return statistics[-1]

    with ExitStack() as resources:
        resources.enter_context(watchdog())
        kept = resources.enter_context(staging_directory("ais-vllm-", settings.staging_directory))
        checkpoint = await asyncio.to_thread(_checkpoint, directory, mode, kept)
        arguments = engine_arguments(checkpoint, model, settings, mode, host, routing is not None)
        llm = await asyncio.to_thread(_start, arguments, statistics_of_rank)
        resources.callback(llm.shutdown)
        first = Version(0, model.digest, model.files, probe=None)
        allowed = settings.probe_tolerance or tolerance(settings.precision)
        weights = LiveWeights(llm, first, mode.snapshot_format, model.vocab_size, allowed, settings.vllm.update_seconds)
        try:
            await weights.prepare()
        except WeightsRefusedError as error:
            reason = await asyncio.to_thread(_wrong_tensor, model) or error
            raise ModelUnsupportedError(f"{directory} cannot be served: {reason}") from error
        await _require_dtypes(llm, "ais_weight_dtypes", "linear layers and experts", mode.weight_dtype)
        if settings.precision.float32_head:
            await _require_dtypes(llm, "ais_head_dtypes", "logits", "torch.float32")
        routes = None if routing is None else Routes(llm, routing, told_by_vllm=host.device == "cuda")
        if routing is not None and host.device == "cpu":
            await _record(llm, routing)
        expose_vllm_metrics(registry)
        return VllmEngine(llm, model, settings, weights, statistics, kept, resources.pop_all(), routes)


async def _record(llm: Any, routing: RoutingShape) -> None:
    """Has the workers record what their routers choose. Raises ModelUnsupportedError where they cannot."""
    try:
        ranks = await llm.collective_rpc("ais_record_routes")
    except Exception as error:
        raise ModelUnsupportedError(
            f"run.routing_replay: vLLM's workers cannot record routed experts: {error}"
        ) from error
    for layers, experts in ranks:
        if (tuple(layers), experts) != (routing.layers, routing.experts):
            raise ModelUnsupportedError(
                f"run.routing_replay: expected {routing}, vLLM chooses among {experts} in layers {list(layers)}"
            )


def _wrong_tensor(model: ServedModel) -> WeightsRefusedError | None:
    """The tensor that makes the model's log-probs NaN, if one is wrong by itself. Reads all of them."""
    try:
        for _name, _tensor in checked_tensors(model.files, model.shapes, model.tied_embeddings):
            pass
    except WeightsRefusedError as error:
        return error
    return None


def _checkpoint(directory: Path, mode: LinearMode, work: Path) -> Path:
    """The model in the format that vLLM is to load."""
    if mode.snapshot_format == "bf16":
        return directory
    from ais.rollout.engines.vllm_engine.int8 import write_int8_directory

    target = work / "int8"
    write_int8_directory(directory, target)
    return target


def _start(arguments: dict[str, Any], statistics_of_rank: Any) -> Any:
    """Blocks until vLLM's processes have loaded the model. Raises ModelUnsupportedError."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[statistics_of_rank])
    except (ValueError, RuntimeError, ImportError) as error:
        raise ModelUnsupportedError(f"vLLM cannot serve {arguments['model']}: {error}") from error


async def _require_dtypes(llm: Any, method: str, what: str, expected: str) -> None:
    """The descriptor in every trajectory must be true: `method` of the workers tells the dtypes that `what` has."""
    ranks = await llm.collective_rpc(method)
    found = sorted({dtype for rank in ranks for dtype in rank})
    if found != [expected]:
        raise ModelUnsupportedError(
            f"expected {what} in {expected}, vLLM has {', '.join(found) or 'none'}: choose another rollout.precision "
            "for this model"
        )


async def _tell_progress() -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        logger.info("vLLM is starting: %.0f s so far", time.monotonic() - begun)
