"""The experts that read each token, as they cross the wire beside a trajectory.

A mixture's router sends a token to a few experts, by a top-k that a small difference of its logits turns over: the
replica's rounding alone sends some tokens to other experts than the trainer's own router would. So the chosen experts
come with every token that was read, and the trainer sends it to the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ais.contracts.malformed import refuse
from ais.contracts.routing.shape import RoutingShape, id_dtype
from ais.contracts.v1 import trajectory_pb2 as pb

MOST_EXPERTS = 1 << 15
"""What one layer may have."""
MOST_LAYERS = 4_096

NOT_TOLD = (
    "run.routing_replay needs the experts that read each token, and the replica does not tell them: start it with "
    "run.routing_replay = true and rollout.engine = 'vllm', or set run.routing_replay to false"
)
"""Why a response is not trained on."""


@dataclass(frozen=True)
class RoutedExperts:
    """The experts that read N tokens: of each sequence that the policy read, all but the last."""

    expert_ids: np.ndarray
    """uint8, or uint16 where there are more than 256 experts, [N, layers, experts_per_token]."""
    experts: int
    """How many a layer has."""

    def __len__(self) -> int:
        return len(self.expert_ids)

    def fits(self, shape: RoutingShape) -> bool:
        """Whether a model of that shape may have chosen them."""
        wanted = (len(shape.layers), shape.experts_per_token)
        return self.expert_ids.shape[1:] == wanted and self.experts == shape.experts

    def part(self, begin: int, end: int | None = None) -> RoutedExperts:
        """Those of tokens [begin, end)."""
        return RoutedExperts(self.expert_ids[begin:end], self.experts)

    @classmethod
    def joined(cls, parts: Sequence[RoutedExperts]) -> RoutedExperts:
        """Those of tokens laid end to end, all of one model."""
        return cls(np.concatenate([one.expert_ids for one in parts]), parts[0].experts)

    def __str__(self) -> str:
        _tokens, layers, chosen = self.expert_ids.shape
        return f"{chosen} of {self.experts} experts in {layers} layers"


def encode_routed(message: pb.Trajectory, routed: RoutedExperts | None) -> None:
    """Adds them to a trajectory's message."""
    if routed is None:
        return
    message.routed.layers, message.routed.experts_per_token = routed.expert_ids.shape[1:]
    message.routed.experts = routed.experts
    message.routed.expert_ids = routed.expert_ids.astype(id_dtype(routed.experts), copy=False).tobytes()


def decode_routed(message: pb.Trajectory, least: int, field: str) -> RoutedExperts | None:
    """Those of a trajectory that has `least` such tokens or more, by how long its prompt is; None where none are told.

    Raises MalformedRecordError; `field` is the trajectory's.
    """
    if not message.HasField("routed"):
        return None
    told, field = message.routed, f"{field}.routed"
    if not 1 <= told.layers <= MOST_LAYERS:
        refuse(f"{field}.layers", f"expected 1 to {MOST_LAYERS}, got {told.layers}")
    if not 1 <= told.experts <= MOST_EXPERTS:
        refuse(f"{field}.experts", f"expected 1 to {MOST_EXPERTS}, got {told.experts}")
    if not 1 <= told.experts_per_token <= told.experts:
        refuse(f"{field}.experts_per_token", f"expected 1 to {told.experts}, got {told.experts_per_token}")
    dtype = id_dtype(told.experts)
    width = told.layers * told.experts_per_token * dtype.itemsize
    tokens, rest = divmod(len(told.expert_ids), width)
    if rest or tokens < least:
        got = len(told.expert_ids)
        refuse(f"{field}.expert_ids", f"expected {width} bytes for each of {least} tokens or more, got {got} bytes")
    ids = np.frombuffer(told.expert_ids, dtype=dtype).reshape(tokens, told.layers, told.experts_per_token)
    if tokens and (highest := int(ids.max())) >= told.experts:
        refuse(f"{field}.expert_ids", f"expected numbers below {told.experts}, got {highest}")
    ordered = np.sort(ids, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        refuse(f"{field}.expert_ids", "one expert reads a token twice in one layer")
    return RoutedExperts(ids, told.experts)


def check_tokens(routed: RoutedExperts | None, tokens: int, field: str) -> None:
    """Raises MalformedRecordError where they are not those of so many tokens; `field` is the trajectory's."""
    if routed is not None and len(routed) != tokens:
        refuse(f"{field}.routed.expert_ids", f"expected those of {tokens} tokens that were read, got {len(routed)}")
