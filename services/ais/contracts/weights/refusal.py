"""A refusal of weights: the replica keeps the version that it serves, and says why.

The replica raises the same error that its client raises when it reads the answer.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

PROBE = "probe"
"""The field of a refusal whose log-probs are not finite, or too far from the trainer's."""


class WeightsRefused(BaseModel):
    """Answer to a PUT that changed nothing."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    field: str
    """What was wrong: digest, a tensor's name, version, ..."""
    reason: str
    """What was expected, what came, what to do."""
    serving_version: int
    probe_gap: float | None = None
    """The gap measured, where it was too large: mean |log-prob difference| to the trainer, nats a token."""


class WeightsRefusedError(Exception):
    """Weights that a replica does not take. A replica raises it; so does the client that gets such an answer."""

    def __init__(self, field: str, reason: str, status: int = 422, probe_gap: float | None = None) -> None:
        """`field` and `reason` as in `WeightsRefused`; `status` as in `ais.contracts.weights.offer`.

        `probe_gap`: the gap that was too large, nats a token; None when log-probs were not finite.
        """
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.status = status
        self.probe_gap = probe_gap
