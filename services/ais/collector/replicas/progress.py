"""What a replica tells of a response while it samples it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ais.contracts.trajectory import MalformedRecordError, Trajectory, decode_logprobs, decode_token_ids
from ais.contracts.v1 import rollout_pb2


@dataclass(frozen=True)
class SampledTokens:
    """Tokens sampled since those told before, and the log-prob of each."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]


@dataclass
class Told:
    """What has been told so far of one response."""

    vocab_size: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    count: int = 0
    """Tokens that came, with log-probs or without."""

    def more(self, message: rollout_pb2.Progress, most: int) -> SampledTokens | None:
        """What is new; None: nothing, or a replica of an earlier release told no log-probs, and the whole is to be
        waited for. Raises MalformedRecordError, also for more than `most` tokens in all."""
        tokens = decode_token_ids(message.token_ids, self.vocab_size, "progress.token_ids")
        if (count := self.count + len(tokens)) > most:
            raise MalformedRecordError("progress.token_ids", f"more than {most} came")
        self.count = count
        if not message.behaviour_logprobs:
            return None
        logprobs = decode_logprobs(message.behaviour_logprobs, len(tokens), "progress.behaviour_logprobs")
        new = SampledTokens(tokens.tolist(), logprobs.tolist())
        self.token_ids += new.token_ids
        self.logprobs += new.logprobs
        return new

    def check(self, whole: Trajectory) -> None:
        """Raises MalformedRecordError where the response does not begin with what was told of it."""
        for name, told in (("token_ids", self.token_ids), ("behaviour_logprobs", self.logprobs)):
            if getattr(whole, name)[: len(told)].tolist() != told:
                raise MalformedRecordError(f"progress.{name}", "the response does not begin with what was told of it")
