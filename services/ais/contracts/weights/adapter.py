"""A policy version as an adapter: what makes its files of the model that every replica was started with.

Low-rank adapters change a frozen weight W to W + scale B A (arXiv 2106.09685). Where only they are trained, a version
is the model and its adapter, and the adapter is all that has to travel. For each file of the version one safetensors
file is sent, which has

- A, float32 [rank, in], and B, float32 [out, rank], of every weight of that file with an adapter, under peft's names;
- in its metadata the header that the version's file begins with, and the scale.

The replica merges, and has the very files that a merged push would have brought: the version's digest proves the model
that it started from, the adapter and the arithmetic at once. So every engine takes the result as it takes any version.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ais.contracts.weights.delta import read_header, tensors_of
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import DigestBuilder

if TYPE_CHECKING:  # torch is loaded where weights are merged, which not every replica does
    from torch import Tensor

ADAPTER = "adapter"
"""The encoding of an offer whose bytes are an adapter."""
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_HEADER_KEY = "ais_header"
_SCALE_KEY = "ais_scale"
_MALFORMED = (SafetensorError, RuntimeError, LookupError, TypeError, ValueError)
"""What reading and merging raise for tensors and metadata that are not as they should be."""
_PREFIX = "base_model.model."
"""What peft puts before the names of a model's modules."""


def factor_names(weight: str) -> tuple[str, str]:
    """peft's names of the factors A and B of a weight's adapter."""
    module = _PREFIX + weight.removesuffix(".weight")
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale B A, computed in float32 and rounded once to the dtype of `weight`.

    Trainer and replicas call this function, so on processors that add in the same order they get the same bits.
    """
    return weight.float().addmm(b, a, alpha=scale).to(weight.dtype)


def encode_adapter(adapter: Path, new: Path, target: Path) -> None:
    """Writes to `target` what makes `new`, a file of a version, of the model that `adapter`, a peft directory, is for.

    Raises OSError, SafetensorError, and DeltaError for a file that is not one of a version.
    """
    from safetensors.torch import save_file

    config = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    with new.open("rb") as opened:
        header = read_header(opened)
    wanted = {factor for name in tensors_of(header) for factor in factor_names(name)}
    with safe_open(adapter / WEIGHTS_FILE, framework="pt") as held:
        factors = {name: held.get_tensor(name) for name in held.keys() if name in wanted}  # noqa: SIM118
    metadata = {_HEADER_KEY: base64.b64encode(header).decode(), _SCALE_KEY: repr(config["lora_alpha"] / config["r"])}
    save_file(factors, target, metadata)


def apply_adapter(model: Sequence[Path], adapter: Path, target: Path, size: int, digest: str) -> None:
    """Writes to `target` the file of `size` bytes and `digest` that `adapter` makes of the files of `model`.

    One tensor is in memory at a time. Raises DeltaError when it does not; `target` is then gone.
    """
    try:
        with target.open("wb") as output:
            written = _apply(model, adapter, output, size)
        if written != digest:
            raise DeltaError(
                f"expected the adapter to give {digest}, got {written}: this replica was started with another model, "
                "or its processor adds in another order"
            )
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, _MALFORMED) and not isinstance(error, DeltaError):
            raise DeltaError(f"expected an adapter to this model: {error}") from error
        raise


def _apply(model: Sequence[Path], sent: Path, output: IO[bytes], size: int) -> str:
    digest = DigestBuilder()
    with ExitStack() as stack:
        adapter = stack.enter_context(safe_open(sent, framework="pt"))
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in model]
        base = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # not a mapping
        metadata = adapter.metadata() or {}
        header, scale = base64.b64decode(metadata[_HEADER_KEY], validate=True), float(metadata[_SCALE_KEY])
        entries = _entries(header, size)
        digest.update(header)
        output.write(header)
        for name, entry in entries.items():
            weight = base[name].get_tensor(name).bfloat16()
            a, b = factor_names(name)
            if a in adapter.keys():  # noqa: SIM118  # not a mapping
                weight = merged(weight, adapter.get_tensor(a), adapter.get_tensor(b), scale)
            if list(weight.shape) != entry["shape"] or entry["dtype"] != "BF16":
                raise DeltaError(f"{name}: expected {list(weight.shape)} in BF16, got {entry['shape']}")
            values = _values(weight)
            digest.update(values)
            output.write(values)
    return digest.result()


def _entries(header: bytes, size: int) -> Mapping[str, Any]:
    """The tensors of the file, in the order of their values. Raises DeltaError unless they fill `size` bytes."""
    entries = tensors_of(header)
    described = len(header) + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if described != size:
        raise DeltaError(f"expected an adapter to a file of {size} bytes, got one to {described}")
    return dict(sorted(entries.items(), key=lambda one: one[1]["data_offsets"][0]))


def _values(tensor: Tensor) -> memoryview:
    """The values of a tensor as a file has them."""
    import torch

    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
