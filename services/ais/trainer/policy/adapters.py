"""LoRA as peft has it: weights W + (alpha / rank) B A, of which W stays and A and B are trained (arXiv 2106.09685).

peft chooses the layers, makes the first values and defines the files. The forward pass is the trainer's own: it
computes with the merged weights, rounded to BF16 once, which are the very weights that replicas are sent. So a
quantised replica quantises what the trainer computes with, and nobody sees a difference between merged and not merged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from ais.contracts.weights.adapter import WEIGHTS_FILE, factor_names, merged
from ais.runtime.process import UnavailableError
from ais.trainer.settings import WITHOUT_PEFT, LoraSettings

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class Pair:
    """One weight's adapter."""

    a: nn.Parameter
    """float32 [rank, in]."""
    b: nn.Parameter
    """float32 [out, rank]; 0 at first."""


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model, by the name of the weight that each changes."""

    pairs: Mapping[str, Pair]
    scale: float
    """alpha / rank."""
    config: LoraConfig

    @property
    def masters(self) -> dict[str, nn.Parameter]:
        """What is trained, by peft's names."""
        named: dict[str, nn.Parameter] = {}
        for weight, pair in self.pairs.items():
            named |= dict(zip(factor_names(weight), (pair.a, pair.b), strict=True))
        return named

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its adapter, in the weight's dtype and where it is; without one, the weight itself."""
        if (pair := self.pairs.get(name)) is None:
            return weight
        return merged(weight, pair.a.to(weight.device), pair.b.to(weight.device), self.scale)

    def copied(self) -> Adapters:
        """Adapters of the same values, which training does not change."""
        pairs = {name: Pair(_frozen(pair.a), _frozen(pair.b)) for name, pair in self.pairs.items()}
        return Adapters(pairs, self.scale, self.config)

    def save(self, directory: Path) -> None:
        """Writes a directory that `PeftModel.from_pretrained` loads."""
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(str(directory))
        tensors = {name: master.detach().cpu().contiguous() for name, master in self.masters.items()}
        save_file(tensors, directory / WEIGHTS_FILE, {"format": "pt"})


def adapters_of(model: PreTrainedModel, directory: Path, settings: LoraSettings, seed: int) -> Adapters:
    """Adapters that change nothing yet; from now on the model's own weights are frozen.

    `directory` is where the model was loaded from. Raises UnavailableError without peft, and where the model has no
    layers of the names that `settings` give, or experts of these names.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import Linear
    except ImportError:
        raise UnavailableError(WITHOUT_PEFT) from None
    logging.getLogger("peft").setLevel(logging.ERROR)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(directory),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            injected = get_peft_model(model, config)
        except ValueError as error:  # no layer of these names, or none that peft can adapt
            raise UnavailableError(f"trainer.lora.target_modules: {error}") from error
    pairs = {
        f"{name}.weight": Pair(_master(module.lora_A), _master(module.lora_B))
        for name, module in model.named_modules()
        if isinstance(module, Linear)
    }
    injected.base_model.unload()  # type: ignore[operator]
    if config.target_parameters:
        raise UnavailableError(
            f"trainer.lora.target_modules: {', '.join(sorted(config.target_parameters))} of this model are experts, "
            "which transformers holds as one tensor and which get no adapters here. Name the others alone, for example "
            '["q_proj", "k_proj", "v_proj", "o_proj"]'
        )
    config.inference_mode = True
    return Adapters(pairs, settings.alpha / settings.rank, config)


def _master(layers: nn.ModuleDict) -> nn.Parameter:
    """The weight of peft's adapter, which it names `default`."""
    return nn.Parameter(cast(nn.Linear, layers["default"]).weight.detach().float())


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=False)
