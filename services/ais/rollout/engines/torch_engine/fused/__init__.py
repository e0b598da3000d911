"""A decode step on a GPU with few kernels: all that lies between two matrix products of a layer is one.

Read `kernels` (Triton), `operations` (their launches) and `decoder` (the step). The numbers are those of the plain
decoder up to the order of additions and the last bit of a root or an exponential. `best_decoder` needs none of them.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.decoder import Decoder


def best_decoder(architecture: Architecture, precision: Precision, positions: int, device: torch.device) -> Decoder:
    """The fused decoder on a GPU for which Triton is installed (PyTorch's CUDA packages bring it), else the plain one.

    Triton compiles with a C compiler that it finds in CC or on the path, and raises where there is none.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return Decoder(architecture, precision, positions, device)
    from ais.rollout.engines.torch_engine.fused.decoder import FusedDecoder

    return FusedDecoder(architecture, precision, positions, device)
