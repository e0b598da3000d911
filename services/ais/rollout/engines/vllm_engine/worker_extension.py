"""What runs inside vLLM's worker processes: live weight updates from a snapshot on disk.

Each rank reads the whole safetensors file and keeps its own shard. The weights go through vLLM's layerwise reload: back
to the checkpoint's layout, loaded, quantised and packed again, copied into the tensors that already serve.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.utils.torch_utils import set_default_torch_dtype

from ais.rollout.engines.vllm_engine import fp8_cpu_kernel, int8_cpu_kernel
from ais.rollout.engines.vllm_engine.arguments import TRANSFER_BACKEND
from ais.rollout.engines.vllm_engine.experts import fp8_cpu_kernel as experts_fp8_cpu_kernel
from ais.rollout.engines.vllm_engine.experts import reload as experts_reload
from ais.rollout.engines.vllm_engine.int8 import int8_tensors
from ais.rollout.engines.vllm_engine.precision import SnapshotFormat
from ais.rollout.engines.vllm_engine.routing.recording import RouteRecorder
from ais.rollout.engines.vllm_engine.scoring import score


@dataclass
class SnapshotInit(WeightTransferInitInfo):
    """Nothing to agree on: every update names its file."""


@dataclass
class SnapshotUpdate(WeightTransferUpdateInfo):
    """A whole policy version."""

    paths: list[str]
    """Safetensors files that every rank can read: together the tensors of the Hugging Face checkpoint in BF16."""
    format: SnapshotFormat
    """The format of the checkpoint the engine was started from. bf16: loaded as it is, and vLLM's own online
    quantisation, if it is on, rounds again. int8: each rank makes the INT8 checkpoint's tensors from the BF16 ones."""

    def __post_init__(self) -> None:
        if self.format not in get_args(SnapshotFormat):
            raise ValueError(f"format: expected {' or '.join(get_args(SnapshotFormat))}, got {self.format!r}")


class SnapshotTransferEngine(WeightTransferEngine[SnapshotInit, SnapshotUpdate]):
    """Loads snapshots into the rank's model.

    A load that fails leaves a mixture of both versions; load the serving one again before resuming generation.
    """

    init_info_cls = SnapshotInit
    update_info_cls = SnapshotUpdate

    def init_transfer_engine(self, init_info: SnapshotInit) -> None:
        pass

    def start_weight_update(self) -> None:
        experts_reload.make_kernels_anew(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        # Not the base's, which ends with a synchronise that only accelerators have.
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            # vLLM keeps what was read of a layer and would complete it with the next update's tensors.
            self.finish_weight_update()
            raise

    def receive_weights(self, update_info: SnapshotUpdate) -> None:
        # As in vLLM's first load. CPU kernels take their output dtype from the default.
        with set_default_torch_dtype(self.model_config.dtype):
            tensors = snapshot_tensors(update_info.paths)
            self.model.load_weights(int8_tensors(tensors) if update_info.format == "int8" else tensors)

    def finish_weight_update(self) -> None:
        with set_default_torch_dtype(self.model_config.dtype):
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


def snapshot_tensors(paths: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of safetensors files, read one by one."""
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                yield name, file.get_tensor(name)


class WorkerExtension:
    """For vLLM's `worker_extension_cls`: importing it in a worker registers the transfer engine. Its methods become
    the worker's, and are called on every rank by `collective_rpc`."""

    def ais_score(self, sequences: list[list[int]]) -> list[list[float]]:
        """See `scoring.score`. Only while generation is paused with its caches cleared."""
        return score(self, sequences)

    def ais_weight_dtypes(self) -> list[str]:
        """See `weight_dtypes`."""
        return weight_dtypes(self.model_runner.get_model())  # type: ignore[attr-defined]

    def ais_record_routes(self) -> tuple[list[int], int]:
        """Records from now on which experts requests are routed to (`routing.recording`): the layers that choose, and
        how many experts each has. Raises ValueError for a model that does not tell."""
        self._routes = RouteRecorder(self.model_runner)  # type: ignore[attr-defined]
        return list(self._routes.layers), self._routes.experts

    def ais_take_routes(self, names: list[str]) -> list[bytes]:
        """Those of requests that have ended; nothing on a rank that does not record."""
        return self._routes.take(names)

    def ais_head_dtypes(self) -> list[str]:
        """Dtypes that logits are computed in."""
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        return sorted({str(part.head_dtype) for part in model.modules() if isinstance(part, LogitsProcessor)})


NEVER_ROUNDED = ("conv1d", "gate", "router")
"""vLLM builds these as linear layers too, and leaves them in BF16: the short convolutions of linear attention, and what
chooses a mixture's experts."""
EXPERTS = ("w13_weight", "w2_weight")
"""What vLLM calls the weights of a layer's experts."""


def weight_dtypes(model: nn.Module) -> list[str]:
    """Dtypes that the weights of linear layers and of experts really have, but for those that no format rounds."""
    found: set[torch.dtype] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, RoutedExperts):
            found |= {getattr(layer, weight).dtype for weight in EXPERTS}
        elif isinstance(layer, LinearBase) and not name.endswith(NEVER_ROUNDED):
            found.add(layer.weight.dtype)
    return sorted(map(str, found))


def _is_news(record: logging.LogRecord) -> bool:
    """At every reload vLLM warns that rotary embeddings found no weights. No checkpoint has any: they are computed."""
    return "RotaryEmbedding" not in record.getMessage()


logging.getLogger(initialize_layerwise_reload.__module__).addFilter(_is_news)
fp8_cpu_kernel.register()
int8_cpu_kernel.register()
experts_fp8_cpu_kernel.register()
experts_reload.register()
if TRANSFER_BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(TRANSFER_BACKEND, SnapshotTransferEngine)
