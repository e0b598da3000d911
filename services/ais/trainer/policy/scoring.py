"""The forward pass that training differentiates, as one module: a causal language model and its head, in pieces.

The parameters are float32 masters, or frozen in BF16 beside adapters (`adapters.py`). Each pass rounds them to BF16
and runs the unchanged model on the rounded copies; autograd goes through the rounding, so gradients arrive and
accumulate in float32. When the parameters are sharded over ranks (`sharding.py`), what the pass finds has been rounded
on its way from the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ais.contracts.sampling import Precision
from ais.runtime.process import UnavailableError
from ais.trainer.policy.activation_checkpointing import checkpoint_activations
from ais.trainer.policy.adapters import Adapters
from ais.trainer.policy.behaviour_forward import BehaviourProducts
from ais.trainer.policy.float32_products import bf16_products
from ais.trainer.policy.kept import Kept
from ais.trainer.policy.routing import RoutingReplay
from ais.trainer.policy.shared_prompts import Layout
from ais_core.centring import mean_scores

LOGITS_AT_ONCE = 1 << 25
"""Logits that are in memory at once, each about six times over as float32 in the backward pass: under a gigabyte."""


class ScoringModel(nn.Module):
    """Log-probs and entropies of response tokens.

    The head runs on response positions only, in pieces that bound what their logits take. `behaviour` is the precision
    of the policy that samples, to compute that one instead (`behaviour_forward.py`), or None.
    """

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype = torch.bfloat16) -> None:
        """Raises UnavailableError for an architecture whose head is not a plain layer."""
        super().__init__()
        self.model = model.eval()  # dropout stays off: the behaviour policy has none
        self.compute_dtype = compute_dtype
        self.float32_head = False
        """Whether logits are computed in float32: of numbers in `compute_dtype`, and not rounded."""
        self.differentiate_entropy = False
        """Whether entropies carry the graph."""
        self.rounded_by_sharding = False
        """Whether parameters come in `compute_dtype` and must be used as they are."""
        self.tokens_at_once: int | None = None
        """Tokens, padding included, that are read at once. The sequences of a long episode may be more: they are read
        in pieces, and again in the backward pass. None: any. With sharded parameters, which all ranks gather equally
        often, all are read at once."""
        self.adapters: Adapters | None = None
        """What the weights are changed by."""
        self.replay: RoutingReplay | None = None
        """What sends tokens to the experts that read them when they were sampled; None: routers choose."""
        self._behaviour: Precision | None = None
        self._routes: torch.Tensor | None = None
        self._check_head()

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order. Raises UnavailableError where a model does not keep them as others do."""
        layers = getattr(self.model.base_model, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise UnavailableError(
                f"{type(self.model).__name__} has no list of decoder layers where the Qwen3 and Llama families have "
                "it. Set trainer.ranks.count to 1 and trainer.compute.activation_checkpointing to false."
            )
        return list(layers)

    def checkpoint_activations(self) -> None:
        """From now on each decoder layer keeps its input alone for the backward pass, which computes the rest again."""
        for layer in self.layers:
            checkpoint_activations(layer, lambda: self._pass(self._behaviour, self._routes))

    @contextmanager
    def adapted(self, adapters: Adapters | None) -> Iterator[None]:
        """Context of passes with other adapters, or with none; without gradients."""
        own, self.adapters = self.adapters, adapters
        try:
            yield
        finally:
            self.adapters = own

    def forward(
        self,
        input_ids: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        targets: torch.Tensor,
        temperature: torch.Tensor,
        behaviour: Precision | None = None,
        centre: Precision | None = None,
        kept: Kept | None = None,
        routes: torch.Tensor | None = None,
        layout: Layout | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Log-probs (with their graph) and entropies (with theirs if `differentiate_entropy`), float32 [T] both, and
        with `centre`, the precision of the policy that sampled, the mean score under that policy (with its graph).

        `rows`, `columns`, `targets` (int64 [T]) say where in `input_ids` (int64 [I, L]) each token is predicted and
        which it is; `temperature` is float32 [T]. `centre` is not for sharded parameters. With `kept`, all
        distributions are those among the tokens that truncated sampling left. `routes`, int [R, L, layers, k], are the
        experts that read each token, for `replay`. `layout`: how rows with several sequences are read.
        """
        sampler = None
        if centre is not None:
            with torch.no_grad():
                sampler = self._hidden(input_ids, rows, columns, centre, routes, layout)
        hidden = self._hidden(input_ids, rows, columns, behaviour, routes, layout)
        length = max(1, LOGITS_AT_ONCE // self.model.get_input_embeddings().num_embeddings)
        if len(hidden) <= length:
            return self._score_piece(hidden, targets, temperature, behaviour, sampler, centre, kept)
        pieces = list(zip(*(torch.split(tensor, length) for tensor in (hidden, targets, temperature)), strict=True))
        keeps = [None] * len(pieces) if kept is None else kept.split(length)
        samplers = [None] * len(pieces) if sampler is None else torch.split(sampler, length)
        # A piece's logits are not kept for the backward pass but computed again.
        scores = [
            checkpoint(
                *(self._score_piece, *piece, behaviour, own, centre, keep),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for piece, own, keep in zip(pieces, samplers, keeps, strict=True)
        ]
        logprobs, entropies, means = zip(*scores, strict=True)
        return torch.cat(logprobs), torch.cat(entropies), None if centre is None else torch.cat(means)

    def distribution(
        self,
        input_ids: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        temperature: torch.Tensor,
        behaviour: Precision | None = None,
        kept: Kept | None = None,
        routes: torch.Tensor | None = None,
        layout: Layout | None = None,
    ) -> torch.Tensor:
        """Log-probs of every token, float32 [T, V], with the arguments of `forward`. Not for sharded parameters."""
        hidden = self._hidden(input_ids, rows, columns, behaviour, routes, layout)
        return self._head_logprobs(hidden, temperature, behaviour, kept)

    def _hidden(
        self,
        input_ids: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        behaviour: Precision | None,
        routes: torch.Tensor | None,
        layout: Layout | None,
    ) -> torch.Tensor:
        """Last hidden states [T, H] at `rows`, `columns`."""
        height, width = input_ids.shape
        most = height if self.tokens_at_once is None else max(1, self.tokens_at_once // width)
        if height <= most or self.rounded_by_sharding:
            return self._states(input_ids, behaviour, routes, layout)[rows, columns]
        parts = torch.split(input_ids, most)
        routed = [None] * len(parts) if routes is None else torch.split(routes, most)
        layouts = [None] * len(parts) if layout is None else layout.split(most)
        pieces = [
            checkpoint(self._states, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in zip(parts, [behaviour] * len(parts), routed, layouts, strict=True)
        ]
        return torch.cat(pieces)[rows, columns]

    def _states(
        self,
        input_ids: torch.Tensor,
        behaviour: Precision | None,
        routes: torch.Tensor | None = None,
        layout: Layout | None = None,
    ) -> torch.Tensor:
        """Last hidden states [rows, columns, H] of `input_ids`."""
        # Right padding needs no attention mask: under causal attention no real token sees what stands behind it.
        seen: dict[str, torch.Tensor] = {}
        if layout is not None:
            # On a CPU attention is computed in float32 (`float32_products`): each layer would copy another mask.
            dtype = torch.float32 if input_ids.device.type == "cpu" else self.compute_dtype
            seen = {"position_ids": layout.positions, "attention_mask": layout.mask(dtype)}
        self._behaviour, self._routes = behaviour, routes
        with self._pass(behaviour, routes):
            output = self._call(self.model.base_model, input_ids=input_ids, use_cache=False, **seen)
        return cast(torch.Tensor, output.last_hidden_state)

    def _score_piece(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        temperature: torch.Tensor,
        behaviour: Precision | None,
        sampler: torch.Tensor | None,
        centre: Precision | None,
        kept: Kept | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the distributions after `hidden` [T, H] say about `targets` (int64 [T]); and, where there are the hidden
        states of the `sampler`, about what that would have sampled."""
        logprobs = self._head_logprobs(hidden, temperature, behaviour, kept)
        chosen = logprobs.gather(1, targets[:, None]).squeeze(1).clone()  # FSDP2 hooks what comes out: no views
        with torch.set_grad_enabled(self.differentiate_entropy and torch.is_grad_enabled()):
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        if sampler is None:
            return chosen, entropy, None
        with torch.no_grad():
            sampled_from = self._head_logprobs(sampler, temperature, centre, kept)
        return chosen, entropy, mean_scores(logprobs, sampled_from)

    def _head_logprobs(
        self, hidden: torch.Tensor, temperature: torch.Tensor, behaviour: Precision | None, kept: Kept | None
    ) -> torch.Tensor:
        """The head on `hidden` [T, H], and its log-softmax [T, V], which is float32."""
        with self._products(behaviour if behaviour is not None and behaviour.head else None):
            exact = self.float32_head if behaviour is None else behaviour.float32_head
            logits = self._exact_logits(hidden) if exact else self._call(self.model.get_output_embeddings(), hidden)
        tempered = logits.float() / temperature[:, None]
        return torch.log_softmax(tempered if kept is None else kept.alone(tempered), dim=-1)

    def _exact_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 [T, V] of `hidden` [T, H]; the weights are those that are published, widened."""
        head = self.model.get_output_embeddings()
        widened = {name: weight.float() for name, weight in self._rounded(head).items()}
        return cast(torch.Tensor, functional_call(head, widened, hidden.float()))

    def _call(self, part: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Runs a part of the model on its parameters in `compute_dtype`, with the adapters merged into them."""
        if self.rounded_by_sharding:
            return part(*args, **kwargs)
        return functional_call(part, self._rounded(part), args, kwargs)

    def _rounded(self, part: nn.Module) -> dict[str, torch.Tensor]:
        """The parameters of a part in `compute_dtype`, with the adapters merged into them."""
        if self.rounded_by_sharding:
            return dict(part.named_parameters())
        rounded = {name: weight.to(self.compute_dtype) for name, weight in part.named_parameters()}
        if self.adapters is not None:
            names = {weight: name for name, weight in self.model.named_parameters()}
            for own_name, weight in part.named_parameters():
                rounded[own_name] = self.adapters.merged(names[weight], rounded[own_name])
        return rounded

    @contextmanager
    def _pass(self, behaviour: Precision | None, routes: torch.Tensor | None) -> Iterator[None]:
        """Context of a pass through the decoder layers, or of one layer's part of it that is computed again."""
        with self._products(behaviour), nullcontext() if self.replay is None else self.replay.replayed(routes):
            yield

    @contextmanager
    def _products(self, behaviour: Precision | None) -> Iterator[None]:
        with bf16_products(self.model.device):
            if behaviour is None or behaviour.weights == "bf16":
                yield
            elif self.compute_dtype != torch.bfloat16:
                raise ValueError(
                    f"a quantised policy is imitated in BF16 alone, and this one computes in {self.compute_dtype}"
                )
            else:
                with BehaviourProducts(behaviour):
                    yield

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some architectures do more to the logits (soft-capping, scaling); training on others would be wrong."""
        embeddings = self.model.get_input_embeddings()
        tokens = torch.arange(min(8, embeddings.num_embeddings), device=self.model.device)
        expected = self.model(input_ids=tokens[None], use_cache=False).logits[0]
        hidden = self.model.base_model(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
        if not torch.equal(self.model.get_output_embeddings()(hidden), expected):
            raise UnavailableError(
                f"{type(self.model).__name__} does not compute its logits by one linear layer on the last hidden "
                "state. The trainer supports the Qwen3 and Llama families and others built like them."
            )
