"""Where the torch engine computes."""

from __future__ import annotations

from typing import Literal

import torch

from ais.rollout.engine import ModelUnsupportedError


def chosen_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of `rollout.device`. Raises ModelUnsupportedError for a GPU that is not there."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelUnsupportedError("rollout.device is cuda, and torch sees no GPU here. Set it to auto or cpu.")
    return torch.device("cuda", torch.cuda.current_device())
