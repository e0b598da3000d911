"""Notices that replicas compute their logits in another precision than the trainer. Pure: records in, warnings out."""

from __future__ import annotations

from collections.abc import Iterable

from ais.contracts.registry import ReplicaRecord
from ais.trainer.warning_log import Warned

_NAMES = {False: "BF16", True: "float32"}


class HeadWatch:
    """Compares `trainer.float32_head` with the replicas' `rollout.precision.float32_head`."""

    def __init__(self, float32_head: bool) -> None:
        """`float32_head`: the trainer's."""
        self._own = float32_head
        self._told = False

    def look(self, replicas: Iterable[ReplicaRecord]) -> Warned | None:
        """What is to be told of the live replicas: once, when the first one comes whose head differs."""
        if self._told or all(replica.precision.float32_head == self._own for replica in replicas):
            return None
        self._told = True
        return Warned(
            "head_differs",
            f"replicas compute logits in {_NAMES[not self._own]}, the trainer in {_NAMES[self._own]}: that is a part "
            "of the mismatch. Set rollout.precision.float32_head and trainer.float32_head alike",
        )
