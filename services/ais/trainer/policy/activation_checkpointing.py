"""Computes a layer's activations again in the backward pass instead of keeping them, by torch's own checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(layer: nn.Module, products: Callable[[], AbstractContextManager[None]]) -> None:
    """Puts `layer`'s forward pass under a checkpoint. Nothing is wrapped: parameters keep their names.

    `products()` is the context of the pass under way, which the second computation needs again: it happens when the
    pass, and what was set for its time only, is over. For the same reason it gets the first one's weights.
    """
    own = _OwnForward(layer)

    def forward(*args: Any, **kwargs: Any) -> Any:
        weights = {f"layer.{name}": weight for name, weight in layer.named_parameters()}
        again = products()
        return checkpoint(
            functional_call,
            *(own, weights, args, kwargs),
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again),
        )

    layer.forward = forward


class _OwnForward(nn.Module):
    """The forward pass that the layer had, without its hooks."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._forward = layer.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)
