"""The policy being trained: a Hugging Face causal language model, BF16 compute over float32 master weights.

The parameters that the optimizer owns are float32. Each forward pass rounds them to BF16 and runs the unchanged model
on the rounded copies; autograd goes through the rounding, so gradients arrive and accumulate in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from services.contracts.sampling import Precision
from services.runtime.process import UnavailableError
from services.trainer.behaviour_forward import BehaviourProducts, rounded_weights
from services.trainer.float32_products import bf16_products
from services.trainer.microbatch import Microbatch

LOGITS_AT_ONCE = 1 << 25
"""Logits that are in memory at once, each about six times over as float32 in the backward pass: under a gigabyte."""


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

        The latter is `behaviour_forward`'s; its KV cache is taken to be BF16. The head runs on response positions only,
        in pieces that bound what their logits take.
        """
        hidden = self._hidden(microbatch.input_ids, microbatch.rows, microbatch.columns, behaviour)
        return self._score_hidden(hidden, microbatch.targets, microbatch.temperature, behaviour)

    def distribution(self, microbatch: Microbatch, behaviour: Precision | None = None) -> torch.Tensor:
        """Log-probs of every token at every response position, float32 [T, V], under the sampling temperature."""
        hidden = self._hidden(microbatch.input_ids, microbatch.rows, microbatch.columns, behaviour)
        return self._head_logprobs(hidden, microbatch.temperature, behaviour)

    @torch.no_grad()
    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of each sequence's tokens but the first, at temperature 1, in one forward pass."""
        inputs = pad_sequence([torch.tensor(sequence[:-1]) for sequence in sequences], batch_first=True)
        lengths = torch.tensor([len(sequence) - 1 for sequence in sequences])
        rows, columns = (torch.arange(inputs.shape[1]) < lengths[:, None]).nonzero(as_tuple=True)
        targets = torch.cat([torch.tensor(sequence[1:]) for sequence in sequences]).to(self.device)
        hidden = self._hidden(inputs.to(self.device), rows.to(self.device), columns.to(self.device), None)
        scores = self._score_hidden(hidden, targets, torch.ones(len(targets), device=self.device), None)
        return [part.tolist() for part in torch.split(scores.logprobs, lengths.tolist())]

    def _hidden(
        self, input_ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, behaviour: Precision | None
    ) -> torch.Tensor:
        """Last hidden states [T, H] at `rows`, `columns` (int64 [T]) of `input_ids` (int64 [R, L])."""
        # Right padding needs no attention mask: under causal attention no real token sees what stands behind it.
        model = self.model.base_model
        with self._products(behaviour):
            output = functional_call(
                model, self._rounded(model, behaviour), kwargs={"input_ids": input_ids, "use_cache": False}
            )
        return output.last_hidden_state[rows, columns]  # type: ignore[no-any-return]

    def _score_hidden(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor, behaviour: Precision | None
    ) -> TokenScores:
        """What the distributions after `hidden` [T, H] say about `targets` (int64 [T])."""
        length = max(1, LOGITS_AT_ONCE // self.vocab_size)
        if len(hidden) <= length:
            return self._score_piece(hidden, targets, temperature, behaviour)
        pieces = zip(*(torch.split(tensor, length) for tensor in (hidden, targets, temperature)), strict=True)
        # A piece's logits are not kept for the backward pass but computed again.
        scores = [
            checkpoint(self._score_piece, *piece, behaviour, use_reentrant=False, preserve_rng_state=False)
            for piece in pieces
        ]
        return TokenScores(*(torch.cat([getattr(one, field.name) for one in scores]) for field in fields(TokenScores)))

    def _score_piece(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor, behaviour: Precision | None
    ) -> TokenScores:
        logprobs = self._head_logprobs(hidden, temperature, behaviour)
        chosen = logprobs.gather(1, targets[:, None]).squeeze(1)
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        return TokenScores(chosen, entropy)

    def _head_logprobs(
        self, hidden: torch.Tensor, temperature: torch.Tensor, behaviour: Precision | None
    ) -> torch.Tensor:
        """The head on `hidden` [T, H], and its log-softmax [T, V], which is float32."""
        head = self.model.get_output_embeddings()
        with self._products(behaviour):
            logits = functional_call(head, self._rounded(head, behaviour), (hidden,))
        return torch.log_softmax(logits.float() / temperature[:, None], dim=-1)

    def _rounded(self, module: nn.Module, behaviour: Precision | None) -> dict[str, torch.Tensor]:
        """The module's master weights in the precision of the forward pass, by their names in it."""
        if behaviour is not None:
            return rounded_weights(module, self.model.get_output_embeddings(), behaviour)
        return {name: weight.to(self._compute_dtype) for name, weight in module.named_parameters()}

    @contextmanager
    def _products(self, behaviour: Precision | None) -> Iterator[None]:
        with bf16_products(self.device):
            if behaviour is None:
                yield
            else:
                with BehaviourProducts(behaviour):
                    yield

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some architectures do more to the logits (soft-capping, scaling); training on others would be wrong."""
        tokens = torch.arange(min(8, self.vocab_size), device=self.model.device)
        expected = self.model(input_ids=tokens[None], use_cache=False).logits[0]
        hidden = self.model.base_model(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
        if not torch.equal(self.model.get_output_embeddings()(hidden), expected):
            raise UnavailableError(
                f"{type(self.model).__name__} does not compute its logits by one linear layer on the last hidden "
                "state. The trainer supports the Qwen3 and Llama families and others built like them."
            )
