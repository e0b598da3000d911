"""What a Hugging Face directory says about a model, read before vLLM is started."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ais.rollout.engines.model_config import read_config
from ais.rollout.engines.snapshots import Shapes, digest_of_files, snapshot_files, tensor_shapes
from ais.rollout.engines.stop_tokens import stop_token_ids


@dataclass(frozen=True)
class ServedModel:
    """The model, whichever version of it is served."""

    engine_version: str
    model_type: str
    vocab_size: int
    max_model_len: int
    """Longest prompt plus response, in tokens."""
    recurrent: bool
    """Whether some layers keep a state of fixed size, and not keys and values: Qwen3.5's linear attention."""
    tied_embeddings: bool
    stop_token_ids: tuple[int, ...]
    """The model's own end-of-sequence tokens."""
    shapes: Shapes
    """What every version must hold."""
    files: tuple[Path, ...]
    """The first version."""
    digest: str
    """Digest of the first version."""

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_model(directory: Path, max_model_len: int) -> ServedModel:
    """Raises ModelUnsupportedError for a directory without config or weights. Imports vLLM."""
    import vllm

    config = read_config(directory)
    files = snapshot_files(directory)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return ServedModel(
        engine_version=vllm.__version__,
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        max_model_len=min(max_model_len, config.max_position_embeddings),
        recurrent="linear_attention" in (getattr(config, "layer_types", None) or ()),
        tied_embeddings=tied,
        stop_token_ids=stop_token_ids(directory, config),
        shapes=tensor_shapes(files, tied),
        files=tuple(file.resolve() for file in files),
        digest=digest_of_files(files),
    )
