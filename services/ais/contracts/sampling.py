"""How tokens are drawn, and in which number formats. Both are settings and travel with every trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ais.contracts.v1 import trajectory_pb2 as pb


class FinishReason(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    LENGTH = "length"


class SamplingParameters(BaseModel):
    """How tokens are drawn from the model's distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    temperature: float = Field(default=1.0, ge=0.0, le=100.0)
    """Softmax temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus mass kept; 1 keeps all."""
    top_k: int = Field(default=0, ge=0, le=2**31 - 1)
    """Number of most likely tokens kept; 0 keeps all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Tokens less likely than this share of the most likely one's probability are left out; 0 keeps all."""
    max_new_tokens: int = Field(default=128, ge=1, le=2**31 - 1)
    """Response length at which sampling stops, in tokens."""
    stop_token_ids: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = ()
    """A response ends with the first of these, which belongs to it. Empty: the model's own end-of-sequence tokens."""
    seed: int | None = Field(default=None, ge=0, le=2**64 - 1)
    """Seed of a group's random stream. None draws from the replica's own."""

    @property
    def truncated(self) -> bool:
        """Whether some of several tokens are left out. Greedy sampling has one to choose from."""
        return self.temperature > 0.0 and (self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0)

    def to_proto(self) -> pb.SamplingParameters:
        return pb.SamplingParameters(**self.model_dump())

    @classmethod
    def from_proto(cls, message: pb.SamplingParameters) -> SamplingParameters:
        """Raises pydantic.ValidationError naming the field that is out of range."""
        return cls(
            temperature=message.temperature,
            top_p=message.top_p,
            top_k=message.top_k,
            min_p=message.min_p,
            max_new_tokens=message.max_new_tokens,
            stop_token_ids=tuple(message.stop_token_ids),
            seed=message.seed if message.HasField("seed") else None,
        )


class Precision(BaseModel):
    """Number formats the behaviour policy computes in."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weights: Literal["bf16", "e4m3", "e5m2", "e2m1", "int8"] = "e4m3"
    """Weight format of the linear layers. bf16 turns quantisation off; e2m1 (4 bits) is a stress test."""
    granularity: Literal["tensor", "channel", "block"] = "channel"
    """What shares one weight scale: the whole matrix, an output channel, or a 128 x 128 block."""
    scales: Literal["maximum", "least_squares"] = "maximum"
    """How a weight scale is chosen: `maximum` clips nothing; `least_squares` clips outliers where that leaves the least
    squared error, which costs sixteen roundings at every weight swap and nothing while sampling."""
    activations: Literal["bf16", "e4m3", "e5m2", "int8"] = "e4m3"
    """Format of the linear layers' inputs, scaled dynamically per token. Ignored when weights is bf16."""
    kv_cache: Literal["bf16", "e4m3", "e5m2"] = "bf16"
    """Format of cached keys and values."""
    kv_scale: Literal["token", "calibrated", "one"] = "token"
    """What shares a scale of an FP8 cache. `token`: each head's key and value of each token has its own, from itself.
    `calibrated`: all keys of a layer have one, and all values, from the probe's sequences at each version. `one`:
    nothing is scaled, and what exceeds the format is clipped. vLLM runs `one` alone. Ignored when kv_cache is bf16."""
    head: bool = False
    """Whether the output head is quantised like the other linear layers."""
    float32_head: bool = False
    """Whether the logits are computed in float32: the last hidden states and the head's weights are widened, and their
    products are not rounded to BF16. Set `trainer.float32_head` alike: the trainer warns where they differ."""

    @model_validator(mode="after")
    def _one_head(self) -> Self:
        if self.head and self.float32_head:
            raise ValueError("the output head is quantised (head) or computed in float32 (float32_head), not both")
        return self

    def __str__(self) -> str:
        quantised = self.weights != "bf16"
        parts = [f"{self.weights}/{self.granularity} x {self.activations}"] if quantised else ["bf16"]
        parts += ["least squares"] if quantised and self.scales == "least_squares" else []
        parts += [f"kv {self.kv_cache}{_SCALED[self.kv_scale]}"] if self.kv_cache != "bf16" else []
        parts += ["head"] if quantised and self.head else []
        parts += ["float32 head"] if self.float32_head else []
        return ", ".join(parts)

    @property
    def known_before(self) -> dict[str, Any]:
        """The fields, without those at their default that the release before does not know."""
        return self.model_dump(exclude={name for name in _NEW if getattr(self, name) == _NEW[name]})

    def to_proto(self) -> pb.Precision:
        return pb.Precision(**self.known_before)

    @classmethod
    def from_proto(cls, message: pb.Precision) -> Precision:
        """Raises pydantic.ValidationError naming the field that is unknown."""
        found = {name: getattr(message, name) for name in cls.model_fields}
        return cls.model_validate(found | {"kv_scale": message.kv_scale or _NEW["kv_scale"]})


def is_bf16(told: str) -> bool:
    """Whether the precision that describes itself so (`str`) rounds nothing below BF16: that of the policy that is
    trained, whichever head the trainer has."""
    return told in (str(Precision(weights="bf16", float32_head=head)) for head in (False, True))


_SCALED = {"token": "", "calibrated": " calibrated", "one": " at scale 1"}
_NEW: Mapping[str, Any] = {"float32_head": False, "kv_scale": "token"}
"""Fields that the release before does not know, and their defaults."""
