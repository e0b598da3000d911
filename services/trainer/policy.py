"""The policy being trained: a Hugging Face causal language model, BF16 compute over float32 master weights.

The parameters that the optimizer owns are float32. Each forward pass rounds them to BF16 and runs the unchanged model
on the rounded copies; autograd goes through the rounding, so gradients arrive and accumulate in float32.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from services.contracts.sampling import Precision
from services.runtime.process import UnavailableError
from services.trainer.behaviour_forward import BehaviourProducts, rounded_weights
from services.trainer.float32_products import bf16_products
from services.trainer.microbatch import Microbatch


@dataclass(frozen=True)
class TokenScores:
    """What the policy says about the response tokens of one microbatch, in the order of `Microbatch.targets`."""

    logprobs: torch.Tensor
    """float32 [T], under the sampling temperature; carries the graph when gradients are enabled."""
    entropy: torch.Tensor
    """float32 [T], nats, of the distribution each token was drawn from; detached."""


class Policy:
    """Scores response tokens and owns the master weights."""

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype = torch.bfloat16) -> None:
        """`model` is float32 already. Raises UnavailableError for an architecture whose head is not a plain layer."""
        self.model = model.eval()  # dropout stays off: the behaviour policy has none
        self._compute_dtype = compute_dtype
        self._scorer = _Scorer(model)
        self._check_head()

    @classmethod
    def load(cls, directory: Path, device: str = "auto") -> Policy:
        """Raises UnavailableError when `directory` is not a Hugging Face causal language model."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        disable_progress_bar()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"cannot load a causal language model from {directory}: {error}. Set run.model to a directory with "
                "config.json and safetensors weights."
            ) from error
        return cls(model.to(device))

    @property
    def device(self) -> torch.device:
        """Where the master weights are and the forward pass happens."""
        return self.model.device  # type: ignore[no-any-return]

    @property
    def masters(self) -> dict[str, nn.Parameter]:
        """The float32 master weights by their Hugging Face names; tied weights appear once."""
        return dict(self.model.named_parameters())

    @property
    def vocab_size(self) -> int:
        """Token ids the model has an embedding for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def context_length(self) -> int:
        """Longest prompt plus response, in tokens."""
        return int(self.model.config.max_position_embeddings)

    def score(self, microbatch: Microbatch, behaviour: Precision | None = None) -> TokenScores:
        """One forward pass, of the policy in BF16 or, with `behaviour`, as it samples at that precision.

        The head runs on response positions only; log-softmax is float32.
        """
        logprobs = self.distribution(microbatch, behaviour)
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        return TokenScores(logprobs.gather(1, microbatch.targets[:, None]).squeeze(1), entropy)

    def distribution(self, microbatch: Microbatch, behaviour: Precision | None = None) -> torch.Tensor:
        """Log-probs of every token at every response position, float32 [T, V], under the sampling temperature.

        With `behaviour`, those of the policy that samples at that precision: see `behaviour_forward`. Its KV cache is
        taken to be BF16.
        """
        if behaviour is None:
            weights = {name: weight.to(self._compute_dtype) for name, weight in self.model.named_parameters()}
        else:
            weights = rounded_weights(self.model, self.model.get_output_embeddings(), behaviour)
        inputs = (microbatch.input_ids, microbatch.rows, microbatch.columns)
        with bf16_products(self.model.device), BehaviourProducts(behaviour) if behaviour else nullcontext():
            logits = functional_call(self._scorer, {f"model.{name}": w for name, w in weights.items()}, inputs)
        return torch.log_softmax(logits.float() / microbatch.temperature[:, None], dim=-1)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some architectures do more to the logits (soft-capping, scaling); training on others would be wrong."""
        tokens = torch.arange(min(8, self.vocab_size), device=self.model.device)
        expected = self.model(input_ids=tokens[None], use_cache=False).logits[0]
        if not torch.equal(self._scorer(tokens[None], torch.zeros_like(tokens), tokens), expected):
            raise UnavailableError(
                f"{type(self.model).__name__} does not compute its logits by one linear layer on the last hidden "
                "state. The trainer supports the Qwen3 and Llama families and others built like them."
            )


class _Scorer(nn.Module):
    """The model up to the logits of chosen positions."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        # Right padding needs no attention mask: under causal attention no real token sees what stands behind it.
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden[rows, columns])
        return logits
