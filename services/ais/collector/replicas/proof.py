"""Whether a replica is one of this run's: what it says when asked, against what the run needs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ais.contracts.model_identity import ModelIdentity
from ais.contracts.registry import ReplicaRecord
from ais.contracts.v1 import rollout_pb2
from ais.runtime.text import printable


class WrongReplicaError(ValueError):
    """The replica cannot work for this run as long as it lives. The message says what was expected and what came."""


@dataclass(frozen=True)
class Expected:
    """What a replica of the run must be."""

    run_name: str
    model: ModelIdentity
    """The digests of run.model; an empty one is not compared."""

    def check(self, record: ReplicaRecord, answer: rollout_pb2.DescribeResponse) -> None:
        """Raises WrongReplicaError unless the record's replica listens at its address and serves this run's model."""
        _same("replica_id", record.replica_id, answer.replica_id, "another process listens at its address")
        _same("run_name", self.run_name, answer.run_name, "it belongs to another run")
        _same("vocab_size", record.vocab_size, answer.vocab_size, "its record is of another model")
        _same("model_type", record.model_type, answer.model_type, "its record is of another model")
        if self.model.model_digest:
            _same("model_digest", self.model.model_digest, answer.model_digest, "it was started with another run.model")
        if self.model.tokenizer_digest and answer.tokenizer_digest:
            _same(
                "tokenizer_digest", self.model.tokenizer_digest, answer.tokenizer_digest, "its tokens mean other text"
            )
        if answer.max_model_len < 2:
            raise WrongReplicaError(
                f"max_model_len: expected room for a prompt and a token, got {answer.max_model_len}"
            )


def _same(field: str, expected: object, got: object, meaning: str) -> None:
    if expected != got:
        raise WrongReplicaError(
            f"{field}: expected {printable(str(expected), 100)}, got {printable(str(got), 100) or 'nothing'}; {meaning}"
        )
