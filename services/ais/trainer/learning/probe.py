"""Makes the probe of a version: log-probs that a replica must reproduce, to show that it computes the same policy."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from ais.contracts.trajectory import ScoredGroup
from ais.contracts.weights.probe import Probe
from ais.trainer.policy.policy import Policy

logger = logging.getLogger(__name__)


def probe_sequences(groups: Sequence[ScoredGroup], sequences: int, tokens: int) -> tuple[tuple[int, ...], ...]:
    """Up to `sequences` prompts with a response each, cut to the first `tokens`, from as many groups as possible."""
    candidates = [(index, group) for group in groups for index in range(len(group.trajectories))]
    candidates.sort(key=lambda candidate: candidate[0])
    first = [group.trajectories[index].passages(group.prompt_token_ids)[0] for index, group in candidates[:sequences]]
    return tuple(tuple([*one.prompt_token_ids.tolist(), *one.text_token_ids.tolist()][:tokens]) for one in first)


def take_probe(policy: Policy, sequences: tuple[tuple[int, ...], ...]) -> Probe | None:
    """The policy's log-probs of the sequences; None when there are no sequences, or one log-prob is not finite.

    Without a probe a replica still sees for itself whether the weights compute finite numbers.
    """
    if not sequences:
        return None
    logprobs = policy.sequence_logprobs(sequences)
    if not all(math.isfinite(logprob) for sequence in logprobs for logprob in sequence):
        logger.error("the new weights give log-probs that are not finite; the version goes out without a probe")
        return None
    return Probe(sequences, tuple(map(tuple, logprobs)))
