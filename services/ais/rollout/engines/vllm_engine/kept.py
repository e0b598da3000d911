"""What vLLM's truncated sampling left to draw from, read from the log-probs of the most likely tokens.

Log-probs are those after truncation, so a token that was left out has none. A request says how many vLLM tells, and
top_k bounds how many are kept: with it all are among those told, whatever top_p and min_p leave out besides. Without
it, or with a large one, vocabularies above `MOST_LOGPROBS` are not told of, and such a response is not trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ais.contracts.truncation.kept import KeptTokens
from ais.rollout.engine import GenerationRequest

MOST_LOGPROBS = 160
"""Most that a request asks for of each token: they cross two processes, and vLLM must be told to allow it."""
TIES = 32
"""vLLM keeps every token as likely as the last one of top_k: so many more are asked for."""
LEAST_MASS = 0.995
"""Probability of the tokens told together: less is a sign that more were kept. Each log-prob is rounded."""


def asked_logprobs(request: GenerationRequest, vocab_size: int) -> int:
    """How many of the most likely tokens' log-probs to ask for; 0: of the sampled one alone."""
    sampling = request.sampling
    wanted = min(sampling.top_k + TIES if sampling.top_k else vocab_size, vocab_size)
    return wanted if request.for_training and sampling.truncated and wanted <= MOST_LOGPROBS else 0


def kept_beside(told: Any) -> KeptTokens | None:
    """From `told`, vLLM's FlatLogprobs of T tokens, each with the sampled one first. None where not all are told."""
    token_ids, logprobs = np.array(told.token_ids, dtype=np.int32), np.array(told.logprobs, dtype=np.float64)
    others = []
    for begin, end in zip(told.start_indices, told.end_indices, strict=True):
        sampled, possible = token_ids[begin], np.isfinite(logprobs[begin:end])
        ids, first = np.unique(token_ids[begin:end][possible], return_index=True)
        if np.exp(logprobs[begin:end][possible][first]).sum() < LEAST_MASS:
            return None
        others.append(ids[ids != sampled])
    return KeptTokens.of(others)
