"""One policy version as bytes: what replicas are sent and what a checkpoint keeps, bit for bit the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save

from services.contracts.probe import Probe, attach_probe
from services.contracts.weights import digest_of


@dataclass(frozen=True)
class Snapshot:
    """An immutable policy version."""

    version: int
    payload: bytes
    """A safetensors file of BF16 tensors, which `transformers` loads as `model.safetensors`."""
    digest: str
    """`sha256:<hex>` of the payload."""


def take_snapshot(version: int, weights: Mapping[str, torch.Tensor], probe: Probe | None = None) -> Snapshot:
    """Rounds `weights` to BF16 and serialises them, with the probe in the file's metadata.

    Names are sorted, so equal weights with equal probes have equal digests.
    """
    rounded = {name: weights[name].detach().to("cpu", torch.bfloat16).contiguous() for name in sorted(weights)}
    payload = save(rounded, metadata={"format": "pt"})
    if probe is not None:
        payload = attach_probe(payload, probe)
    return Snapshot(version, payload, digest_of(payload))
