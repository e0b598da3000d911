"""The policy being trained: a Hugging Face causal language model, BF16 compute over float32 master weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ais.contracts.sampling import Precision
from ais.runtime.process import UnavailableError
from ais.trainer.policy.adapters import Adapters
from ais.trainer.policy.kept import Kept
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.published import PublishedWeights
from ais.trainer.policy.routing import RoutingReplay
from ais.trainer.policy.scoring import ScoringModel


@dataclass(frozen=True)
class TokenScores:
    """What the policy says about the response tokens of one microbatch, in the order of `Microbatch.targets`."""

    logprobs: torch.Tensor
    """float32 [T], under the sampling temperature; carries the graph when gradients are enabled."""
    entropy: torch.Tensor
    """float32 [T], nats, of the distribution each token was drawn from; carries the graph where a bonus needs it."""
    mean_score: torch.Tensor | None = None
    """float32 [T], with the graph: the policy's mean log-prob under the one that sampled (`ais_core.centring`); None
    where it is not asked for."""


class Policy:
    """Scores response tokens and owns the master weights.

    Sharded over several ranks (`sharding.shard`), each scores microbatches of its own, and all score equally often.
    """

    base_digest: str | None = None
    """Digest of the weights that adapters change; None without adapters."""
    merges_as_replicas = False
    """Whether weights are published as a processor merges them, whose last bits a GPU's differ from."""

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype = torch.bfloat16) -> None:
        """`model` is float32 already, unless it is not trained. Raises UnavailableError for an architecture whose head
        is not a plain layer, or whose weights cannot be published one by one."""
        self.model = model
        self.scoring = ScoringModel(model, compute_dtype)
        self.published = PublishedWeights(model)
        """What the weights are in files, and for replicas."""

    @classmethod
    def load(
        cls,
        directory: Path,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
        compute_dtype: torch.dtype = torch.bfloat16,
    ) -> Policy:
        """`dtype`: of the masters, or of weights that are not trained.

        Raises UnavailableError when `directory` is not a Hugging Face causal language model whose every weight is
        there and finite."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        disable_progress_bar()
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                directory, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # transformers, safetensors and the model's own code raise anything
            raise UnavailableError(
                f"cannot load a causal language model from {directory}: {type(error).__name__}: {error}. Set run.model "
                "to a directory with config.json and safetensors weights."
            ) from error
        _check_weights(directory, model, loading["missing_keys"])
        return cls(model.to(device), compute_dtype)

    @property
    def device(self) -> torch.device:
        """Where the master weights are and the forward pass happens."""
        return self.model.device  # type: ignore[no-any-return]

    def adapt(self, adapters: Adapters, base_digest: str) -> None:
        """From now on the adapters are trained. They are on the device of the model, whose weights are frozen."""
        self.scoring.adapters = adapters
        self.base_digest = base_digest

    def replay_routing(self) -> None:
        """From now on tokens go to the experts that read them when they were sampled, wherever a microbatch says which.
        Raises UnavailableError for a model whose routers are not known."""
        self.scoring.replay = RoutingReplay(self.model)

    @property
    def adapters(self) -> Adapters | None:
        """What is trained in the place of the weights, if it is."""
        return self.scoring.adapters

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the weights as they are published, by the names in the model's files; tied weights appear once."""
        return self.published.shapes

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the weights as they are published, in BF16, by sorted name. Of a sharded policy `gathered` does."""
        return self.published.tensors(self.weight)

    @torch.no_grad()
    def weight(self, name: str) -> torch.Tensor:
        """One weight of the module, by its name there, in BF16; a DTensor when the policy is sharded."""
        weight: torch.Tensor = self.model.get_parameter(name).detach().to(torch.bfloat16)
        if self.adapters is None:
            return weight
        return self.adapters.merged(name, weight.cpu() if self.merges_as_replicas else weight)

    @property
    def masters(self) -> dict[str, nn.Parameter]:
        """What is trained, in float32: the weights by the module's names, tied ones once; or the adapters.

        DTensors, of which this rank has its shard, when the policy is sharded.
        """
        return self.adapters.masters if self.adapters else dict(self.model.named_parameters())

    @property
    def vocab_size(self) -> int:
        """Token ids the model has an embedding for."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def context_length(self) -> int:
        """Longest prompt plus response, in tokens."""
        return int(self.model.config.max_position_embeddings)

    def score(
        self, microbatch: Microbatch, behaviour: Precision | None = None, centre: Precision | None = None
    ) -> TokenScores:
        """One forward pass, of the policy in BF16 or, with `behaviour`, as it samples at that precision.

        The latter is `behaviour_forward`'s; its KV cache is taken to be BF16. `centre`: of the policy that samples at
        that precision another pass is made, for `mean_score`.
        """
        return TokenScores(
            *self.scoring(
                microbatch.input_ids,
                microbatch.input_rows,
                microbatch.columns,
                microbatch.targets,
                microbatch.temperature,
                behaviour,
                centre,
                Kept.of(microbatch),
                microbatch.routes,
                microbatch.layout,
            )
        )

    def distribution(self, microbatch: Microbatch, behaviour: Precision | None = None) -> torch.Tensor:
        """Log-probs of every token at every response position, float32 [T, V], under the sampling temperature; where
        sampling was truncated, among the tokens kept, others at -1e30 or less."""
        return self.scoring.distribution(
            microbatch.input_ids,
            microbatch.input_rows,
            microbatch.columns,
            microbatch.temperature,
            behaviour,
            Kept.of(microbatch),
            microbatch.routes,
            microbatch.layout,
        )

    @torch.no_grad()
    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of each sequence's tokens but the first, at temperature 1, in one forward pass."""
        inputs = pad_sequence([torch.tensor(sequence[:-1]) for sequence in sequences], batch_first=True)
        lengths = torch.tensor([len(sequence) - 1 for sequence in sequences])
        rows, columns = (torch.arange(inputs.shape[1]) < lengths[:, None]).nonzero(as_tuple=True)
        targets = torch.cat([torch.tensor(sequence[1:]) for sequence in sequences])
        tensors = (inputs, rows, columns, targets, torch.ones(len(targets)))
        logprobs, *_ = self.scoring(*(tensor.to(self.device) for tensor in tensors))
        return [part.tolist() for part in torch.split(logprobs, lengths.tolist())]


def _check_weights(directory: Path, model: PreTrainedModel, missing: Collection[str]) -> None:
    """Raises UnavailableError. transformers makes up weights that it does not find, and takes NaN as it comes."""
    if missing:
        raise UnavailableError(
            f"the weights in {directory} lack {_some(sorted(missing))}, which {type(model).__name__} needs: they are "
            "of another architecture than config.json says, or not all of the model's files are there."
        )
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise UnavailableError(
            f"the weights in {directory} are not finite: {_some(broken)} hold NaN or infinity. Start from another copy "
            "or an earlier checkpoint of the model."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
