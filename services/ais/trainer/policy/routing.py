"""Routing replay: tokens go to the experts that read them when they were sampled, not to the trainer's own choice.

A top-k turns over by a small difference of two logits, so a replica that rounds, or merely adds in another order, sends
some tokens to other experts, and a ratio of probabilities then compares two different networks. With the replica's
choice replayed it compares two weightings of one. How much each expert counts is still the trainer's own router's to
say, whose gradients flow. (R3: arXiv 2510.11370.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ais.contracts.routing.shape import routing_shape
from ais.runtime.process import UnavailableError
from ais.trainer.policy.microbatch import OWN_CHOICE


def _qwen3_moe_weights(router: Any, logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Those that `Qwen3MoeTopKRouter.forward` gives to the experts `chosen` int64 [N, k] by `logits` [N, experts]."""
    weights = torch.softmax(logits, dtype=torch.float, dim=-1).gather(-1, chosen)
    if router.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(logits.dtype)


def _gpt_oss_weights(_router: Any, logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Those of `GptOssTopKRouter.forward`."""
    return torch.softmax(logits.gather(-1, chosen), dim=1, dtype=logits.dtype)


_WEIGHTS: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Qwen3MoeTopKRouter": _qwen3_moe_weights,
    "GptOssTopKRouter": _gpt_oss_weights,
}
"""By the classes' names: their modules are long to import, and other models do without."""


def is_router(part: nn.Module) -> bool:
    """Whether it chooses experts, in a way that is known here."""
    return type(part).__name__ in _WEIGHTS


class RoutingReplay:
    """Replaces what the routers of a model choose, while there is something to replay."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises UnavailableError for a model without routers that are known here."""
        routers = [part for part in model.modules() if is_router(part)]
        shape = routing_shape(model.config.to_dict())
        if shape is None or len(routers) != len(shape.layers):
            raise UnavailableError(
                f"run.routing_replay: {type(model).__name__} has no router of Qwen3-MoE's or GPT-OSS' kind. Set it to "
                "false for this model"
            )
        self.shape = shape
        """What the model chooses."""
        self._routes: torch.Tensor | None = None
        for place, router in enumerate(routers):
            router.register_forward_hook(self._hook(place))

    @contextmanager
    def replayed(self, routes: torch.Tensor | None) -> Iterator[None]:
        """Context of a forward pass over input ids [I, L], or of a part of it that is computed again: `routes`, int16
        [I, L, layers, k], are the experts of each token; None: the routers choose."""
        before, self._routes = self._routes, routes
        try:
            yield
        finally:
            self._routes = before

    def _hook(self, place: int) -> Callable[..., Any]:
        def replace(router: nn.Module, _inputs: Any, output: tuple[torch.Tensor, ...]) -> Any:
            if self._routes is None:
                return None
            logits, _weights, own = output
            told = self._routes[:, :, place].reshape(own.shape).long()
            chosen = torch.where(told == OWN_CHOICE, own, told)
            return logits, _WEIGHTS[type(router).__name__](router, logits, chosen), chosen

        return replace
