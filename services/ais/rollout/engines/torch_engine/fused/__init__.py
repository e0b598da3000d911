"""A decode step on a GPU with few kernels: all that lies between two matrix products of a layer is one.

Read `kernels` (Triton), `operations` (their launches) and `decoder` (the step). The numbers are those of the plain
decoder up to the order of additions and the last bit of a root or an exponential. `best_decoder` needs none of them.
"""

from __future__ import annotations

import logging
import subprocess
from importlib.util import find_spec

import torch

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.decoder import Decoder

logger = logging.getLogger(__name__)


def best_decoder(architecture: Architecture, precision: Precision, positions: int, device: torch.device) -> Decoder:
    """The fused decoder on a GPU on which Triton works, else the plain one, which is several times slower there.

    The fused one scales each key and value of an FP8 cache by itself alone. PyTorch's CUDA packages bring Triton; it
    needs a C compiler and Python's headers to start a kernel.
    """
    shared = precision.kv_cache != "bf16" and precision.kv_scale != "token"
    if device.type != "cuda" or shared or find_spec("triton") is None:
        return Decoder(architecture, precision, positions, device)
    from ais.rollout.engines.torch_engine.fused.decoder import FusedDecoder
    from ais.rollout.engines.torch_engine.fused.operations import try_kernel

    try:
        try_kernel(device)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        logger.warning("decode steps are not fused, and slower: Triton starts no kernel here (%s)", error)
        return Decoder(architecture, precision, positions, device)
    return FusedDecoder(architecture, precision, positions, device)
