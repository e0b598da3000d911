"""A module's weights as the files of its family hold them: what replicas, deltas and checkpoints know.

transformers may hold them otherwise. Qwen3-MoE's experts are two tensors a layer in the module, and three an expert in
the files and for every engine that reads them. Loading converts by transformers' own rules, and saving reverts those
that loading used; here they are reverted for one weight of the module at a time: a model is never held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ais.runtime.process import UnavailableError


class PublishedWeights:
    """Names and shapes of a model's weights in its files, and the way there from those of the module."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises UnavailableError where a tensor of the files is made of several weights of the module."""
        self._model = model
        empty = {name: torch.empty(weight.shape, device="meta") for name, weight in model.named_parameters()}
        parts = {name: _shapes(self._converted(name, weight)) for name, weight in empty.items()}
        self.shapes: dict[str, torch.Size] = {name: shape for part in parts.values() for name, shape in part.items()}
        """By the files' names; tied weights appear once."""
        self._source = {name: source for source, part in parts.items() for name in part}
        if self.shapes != _shapes(revert_weight_conversion(model, empty)):
            raise UnavailableError(
                f"the files of {type(model).__name__} hold tensors that are made of several weights of the module, "
                "which the trainer cannot publish one by one"
            )

    def tensors(self, weight: Callable[[str], torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the files' names, sorted, and tensors. `weight` gives a whole weight of the module by its name there.

        It is asked for each once, always in the same order. What came of one is held until all of it was yielded: of
        a mixture's experts, those of one layer.
        """
        held: dict[str, torch.Tensor] = {}
        for name in sorted(self.shapes):
            if name not in held:
                source = self._source[name]
                held |= self._converted(source, weight(source))
            yield name, held.pop(name)

    def _converted(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        converted: dict[str, torch.Tensor] = revert_weight_conversion(self._model, {name: weight})
        return converted


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
