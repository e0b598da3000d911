"""What training needs to go on to the bit, beyond the weights that are served: masters, Adam's moments, the generator.

torch.distributed.checkpoint writes it, each rank its own shards, in the background; it loads on any number of ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from ais.trainer.learning.state_reader import StateReader

# One process without torch.distributed is what is meant. (Said from a thread of the library's, so for good.)
warnings.filterwarnings("ignore", message="torch.distributed is disabled")

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter."""


def save_training_state(
    directory: Path,
    masters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, torch.Tensor] = MappingProxyType({}),
    group: dist.ProcessGroup | None = None,
) -> Future[Any]:
    """Copies the state and writes the copy in the background; it is on the disk when the result is there.

    `average`: that of a reference which follows the policy; empty without one.

    All ranks call it, with a `group` of their own for it: its collectives go beside those of training.
    """
    state: dict[str, Any] = {
        "masters": {name: parameter.detach() for name, parameter in masters.items()},
        "generator": torch.get_rng_state(),
    }
    if optimizer.state:  # none before the first update, and a fresh optimizer must stay one
        state["moments"] = {name: dict(optimizer.state[parameter]) for name, parameter in masters.items()}
    if average:
        state["average"] = dict(average)
    saving = async_save(state, checkpoint_id=directory, process_group=group, no_dist=not dist.is_initialized())
    assert isinstance(saving, Future)
    return saving


@torch.no_grad()
def load_training_state(
    directory: Path,
    masters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, torch.Tensor] = MappingProxyType({}),
    group: dist.ProcessGroup | None = None,
) -> bool:
    """Puts a saved state in the place of this one, on all ranks. Returns False when `average` was not saved: it is as
    it was.

    Raises ForeignStateError for files that no trainer has written, and what torch.distributed.checkpoint raises for
    the state of another model.
    """
    reader = StateReader(directory)
    saved = reader.read_metadata().state_dict_metadata
    state: dict[str, Any] = {
        "masters": {name: parameter.detach() for name, parameter in masters.items()},
        "generator": torch.get_rng_state(),
    }
    if any(name.startswith("moments.") for name in saved):
        state["moments"] = {name: _no_moments(parameter) for name, parameter in masters.items()}
    found = any(name.startswith("average.") for name in saved)
    if average and found:
        state["average"] = dict(average)
    load(state, storage_reader=reader, process_group=group, no_dist=not dist.is_initialized())
    torch.set_rng_state(state["generator"])
    optimizer.state.clear()
    for name, moments in state.get("moments", {}).items():
        optimizer.state[masters[name]] = moments
    return found or not average


def _no_moments(parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in MOMENTS[1:]}
    return {MOMENTS[0]: torch.zeros((), dtype=torch.float32, device=parameter.device), **moments}
