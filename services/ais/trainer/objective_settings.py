"""Settings of [trainer.objective]: what a batch is worth. docs/objectives.md has the formulas and their sources."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ais.runtime.settings import Count, CountOrNone, Section
from ais_core.objective_settings import (
    CISPO,
    DPPO,
    GSPO,
    Advantage,
    Aggregation,
    Estimator,
    ObjectiveName,
    PPOClip,
)
from ais_core.objective_settings import (
    ObjectiveSettings as OwnSettings,
)


class ReferenceSettings(Section):
    """A penalty on the policy's divergence from a reference policy, and which policy that is."""

    policy: Literal["none", "start", "directory", "average"] = "none"
    """`start`: the policy the run began with, `run.model`. `directory`: another model with the same tokens. `average`:
    the exponential moving average of the policy itself. Each costs a forward pass, and the memory of the weights in
    BF16 (`average`: in float32); with [trainer.lora], `start` and `average` cost no weights."""
    directory: Path | None = None
    """Hugging Face model directory of the reference `directory`."""
    decay: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Share of the average that each batch keeps."""
    coefficient: float = Field(default=1e-3, gt=0.0, le=1e3)
    """What a nat of divergence costs, in the loss or in reward."""
    estimator: Estimator = "k3"
    """How a token's divergence is estimated. In the loss, k2 has the gradient of KL(policy || reference), k3 that of
    GRPO, and k1 that of k2; in the reward, k1 and k3 are unbiased."""
    place: Literal["loss", "reward"] = "loss"
    """`loss`: added to each token's loss. `reward`: the sum over a response's tokens is taken from its reward before
    advantages are computed, for which the batch is scored once ahead of training."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.policy == "directory") != (self.directory is not None):
            raise ValueError(
                "trainer.objective.reference: policy = 'directory' and directory = '...' go together; got policy "
                f"{self.policy!r} and {'no directory' if self.directory is None else f'directory {self.directory}'}"
            )
        return self


class ObjectiveSettings(Section):
    """What a batch is worth: advantages and the surrogate loss."""

    name: ObjectiveName = "ppo_clip"
    """The surrogate whose gradient is taken; the section of that name below has its settings. `policy_gradient`
    has none."""
    advantage: Advantage = "grpo"
    """How rewards become advantages; ais_core.advantages has the formulas."""
    aggregation: Aggregation = "token_mean"
    """How token losses become one number: `token_mean` is DAPO's, `sequence_mean` GRPO's, `constant_length` Dr. GRPO's.
    The constant length is the sampling's max_new_tokens."""
    entropy_coefficient: float = Field(default=0.0, ge=0.0, le=1e3)
    """Bonus for each nat of entropy of the policy at the sampled tokens, against collapse; 1e-3 is common."""
    straight_through: bool = False
    """Give the uncorrected branch of `correction.method` ais the log-probs of the quantised policy itself: a second
    forward and backward pass, with weights and activations rounded as the replicas round them. Both branches are then
    gradients of what they improve. Worth it where quantisation is coarse, as with 4-bit weights (docs/algorithm.md);
    a step costs two to three times as much. A quantised KV cache is not imitated."""
    straight_through_every: CountOrNone = 0
    """Train the quantised policy itself in one step of so many, by that second pass instead of the step's own; 0: in
    none. Its own samples need no weights: such a step measures for the correction and does not apply it, and samples of
    an older version are left to the surrogate's ratio. Other steps are as without it. The price is a forward pass
    without gradients in one step of so many; 4 is what was measured, where it helped with 4-bit weights and E5M2
    (docs/algorithm.md). A quantised KV cache is not imitated."""
    centring: bool = False
    """Take from every token's gradient its mean under the policy that sampled, with `correction.method` none: score
    centring (docs/algorithm.md, section 6), computed exactly from both policies' distributions. It takes away the drift
    of uncorrected training, which grows with the length of the answers, and needs no ratios. A step makes one more
    forward pass, with weights and activations rounded as the replicas round them. A quantised KV cache is not imitated,
    nor are the weights of an older version."""
    updates_per_batch: Count = 1
    """Optimizer updates made of one batch, each from its share of the groups. More than 1 costs a second forward pass
    for the proximal log-probs."""
    ppo_clip: PPOClip = PPOClip()
    gspo: GSPO = GSPO()
    cispo: CISPO = CISPO()
    dppo: DPPO = DPPO()
    reference: ReferenceSettings = ReferenceSettings()

    @property
    def own(self) -> OwnSettings | None:
        """The settings of the surrogate that is named; None for one that has none."""
        own: OwnSettings | None = getattr(self, self.name, None)
        return own

    @model_validator(mode="after")
    def _centring_has_one_gradient_to_centre(self) -> Self:
        if self.centring and (self.updates_per_batch > 1 or self.name not in ("ppo_clip", "policy_gradient")):
            raise ValueError(
                "trainer.objective.centring needs one update a batch and the surrogate ppo_clip or policy_gradient; "
                f"got updates_per_batch = {self.updates_per_batch} and name = {self.name!r}"
            )
        return self

    @model_validator(mode="after")
    def _the_sampling_policy_is_trained_in_one_way(self) -> Self:
        if self.straight_through_every and (self.straight_through or self.centring):
            raise ValueError(
                f"trainer.objective.straight_through_every = {self.straight_through_every}: use one of "
                "straight_through_every, straight_through and centring"
            )
        return self

    @model_validator(mode="after")
    def _one_update_without_a_ratio(self) -> Self:
        if self.name == "policy_gradient" and self.updates_per_batch > 1:
            raise ValueError(
                f"trainer.objective.name 'policy_gradient' has no ratio to the policy before the batch, so it cannot "
                f"make updates_per_batch = {self.updates_per_batch}: set 1, or name cispo or ppo_clip"
            )
        return self
