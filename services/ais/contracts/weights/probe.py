"""The probe a policy version carries: a few sequences, and what the trainer says of their tokens under its weights.

A replica scores the sequences with the weights it has just taken, in its own precision, and serves them only if it gets
nearly the same. The probe is in the snapshot's safetensors metadata, so the digest covers it and checkpoints keep it. A
snapshot of another origin has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from ais.contracts.trajectory import MalformedRecordError

PROBE_KEY = "ais_probe"
"""Key of the probe, as JSON, in a snapshot's safetensors metadata."""
MOST_TOKENS = 1024
"""Tokens of all sequences together: what a replica is willing to score."""


@dataclass(frozen=True)
class Probe:
    """Sequences of two tokens or more, and log-probs, nats, of each one's tokens but the first.

    The log-probs are the trainer's, at temperature 1, computed in BF16 with exactly the snapshot's weights.
    """

    token_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]

    def cut(self, tokens: int) -> Probe:
        """The same of each sequence's first `tokens` tokens, 2 or more: what a model with less context can score."""
        return Probe(
            tuple(sequence[:tokens] for sequence in self.token_ids),
            tuple(sequence[: tokens - 1] for sequence in self.logprobs),
        )


_PROBE: TypeAdapter[Probe] = TypeAdapter(Probe)


def encode_probe(probe: Probe) -> str:
    return _PROBE.dump_json(probe).decode()


def decode_probe(text: str, vocab_size: int) -> Probe:
    """Raises MalformedRecordError naming the first field that is wrong."""
    try:
        probe = _PROBE.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise MalformedRecordError(".".join(("probe", *map(str, first["loc"]))), first["msg"]) from error
    if not 1 <= len(probe.token_ids) == len(probe.logprobs):
        raise MalformedRecordError(
            "probe",
            f"expected log-probs of one or more sequences, got {len(probe.token_ids)} and {len(probe.logprobs)}",
        )
    if (tokens := sum(map(len, probe.token_ids))) > MOST_TOKENS:
        raise MalformedRecordError("probe.token_ids", f"expected up to {MOST_TOKENS} tokens in all, got {tokens}")
    for index, (token_ids, logprobs) in enumerate(zip(probe.token_ids, probe.logprobs, strict=True)):
        _check_sequence(token_ids, logprobs, vocab_size, index)
    return probe


def _check_sequence(token_ids: tuple[int, ...], logprobs: tuple[float, ...], vocab_size: int, index: int) -> None:
    if not 2 <= len(token_ids) == len(logprobs) + 1:
        raise MalformedRecordError(
            f"probe.logprobs[{index}]",
            f"expected one for each of two tokens or more but the first, got {len(token_ids)} tokens and "
            f"{len(logprobs)} log-probs",
        )
    if outside := [token for token in token_ids if not 0 <= token < vocab_size]:
        raise MalformedRecordError(
            f"probe.token_ids[{index}]", f"token id {outside[0]} is outside the vocabulary of {vocab_size}"
        )
    if wrong := [logprob for logprob in logprobs if not (math.isfinite(logprob) and logprob <= 0.0)]:
        raise MalformedRecordError(f"probe.logprobs[{index}]", f"a log-prob is finite and <= 0, got {wrong[0]}")


def read_probe(snapshot: Path, vocab_size: int) -> Probe | None:
    """The probe of a safetensors file; reads its header only. None: it has none. Raises MalformedRecordError."""
    try:
        with safe_open(snapshot, framework="numpy") as opened:
            metadata: Mapping[str, str] = opened.metadata() or {}
    except SafetensorError as error:
        raise MalformedRecordError("snapshot", f"expected a safetensors file: {error}") from error
    text = metadata.get(PROBE_KEY)
    return None if text is None else decode_probe(text, vocab_size)
