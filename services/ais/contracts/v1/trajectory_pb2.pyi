from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class PolicySpan(_message.Message):
    __slots__ = ("version", "begin", "end", "digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    begin: int
    end: int
    digest: str
    def __init__(self, version: _Optional[int] = ..., begin: _Optional[int] = ..., end: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class Precision(_message.Message):
    __slots__ = ("weights", "granularity", "activations", "kv_cache", "head", "scales", "float32_head", "kv_scale")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    FLOAT32_HEAD_FIELD_NUMBER: _ClassVar[int]
    KV_SCALE_FIELD_NUMBER: _ClassVar[int]
    weights: str
    granularity: str
    activations: str
    kv_cache: str
    head: bool
    scales: str
    float32_head: bool
    kv_scale: str
    def __init__(self, weights: _Optional[str] = ..., granularity: _Optional[str] = ..., activations: _Optional[str] = ..., kv_cache: _Optional[str] = ..., head: _Optional[bool] = ..., scales: _Optional[str] = ..., float32_head: _Optional[bool] = ..., kv_scale: _Optional[str] = ...) -> None: ...

class SamplingParameters(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "max_new_tokens", "stop_token_ids", "seed", "min_p")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    seed: int
    min_p: float
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., seed: _Optional[int] = ..., min_p: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("first_token_seconds", "total_seconds")
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    first_token_seconds: float
    total_seconds: float
    def __init__(self, first_token_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("context_token_ids", "tokens", "finish_reason", "max_new_tokens", "seed", "begins_anew")
    CONTEXT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BEGINS_ANEW_FIELD_NUMBER: _ClassVar[int]
    context_token_ids: bytes
    tokens: int
    finish_reason: FinishReason
    max_new_tokens: int
    seed: int
    begins_anew: bool
    def __init__(self, context_token_ids: _Optional[bytes] = ..., tokens: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., max_new_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., begins_anew: _Optional[bool] = ...) -> None: ...

class KeptTokens(_message.Message):
    __slots__ = ("counts", "token_ids")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    counts: bytes
    token_ids: bytes
    def __init__(self, counts: _Optional[bytes] = ..., token_ids: _Optional[bytes] = ...) -> None: ...

class RoutedExperts(_message.Message):
    __slots__ = ("layers", "experts", "experts_per_token", "expert_ids")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPERT_IDS_FIELD_NUMBER: _ClassVar[int]
    layers: int
    experts: int
    experts_per_token: int
    expert_ids: bytes
    def __init__(self, layers: _Optional[int] = ..., experts: _Optional[int] = ..., experts_per_token: _Optional[int] = ..., expert_ids: _Optional[bytes] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("trajectory_id", "group_id", "sample_index", "token_ids", "behaviour_logprobs", "spans", "finish_reason", "sampling", "precision", "engine", "engine_version", "replica_id", "timings", "turns", "kept", "routed")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    ROUTED_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: str
    group_id: str
    sample_index: int
    token_ids: bytes
    behaviour_logprobs: bytes
    spans: _containers.RepeatedCompositeFieldContainer[PolicySpan]
    finish_reason: FinishReason
    sampling: SamplingParameters
    precision: Precision
    engine: str
    engine_version: str
    replica_id: str
    timings: Timings
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    kept: KeptTokens
    routed: RoutedExperts
    def __init__(self, trajectory_id: _Optional[str] = ..., group_id: _Optional[str] = ..., sample_index: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., behaviour_logprobs: _Optional[bytes] = ..., spans: _Optional[_Iterable[_Union[PolicySpan, _Mapping]]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., sampling: _Optional[_Union[SamplingParameters, _Mapping]] = ..., precision: _Optional[_Union[Precision, _Mapping]] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., replica_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., kept: _Optional[_Union[KeptTokens, _Mapping]] = ..., routed: _Optional[_Union[RoutedExperts, _Mapping]] = ...) -> None: ...

class JudgementFailure(_message.Message):
    __slots__ = ("index", "outcome", "text")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    index: int
    outcome: str
    text: str
    def __init__(self, index: _Optional[int] = ..., outcome: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class RewardComponent(_message.Message):
    __slots__ = ("name", "weight", "scores", "failures")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    scores: _containers.RepeatedScalarFieldContainer[float]
    failures: _containers.RepeatedCompositeFieldContainer[JudgementFailure]
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., scores: _Optional[_Iterable[float]] = ..., failures: _Optional[_Iterable[_Union[JudgementFailure, _Mapping]]] = ...) -> None: ...

class Journey(_message.Message):
    __slots__ = ("drawn", "sent", "answered", "judged", "admitted_version", "traceparent")
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    drawn: float
    sent: float
    answered: float
    judged: float
    admitted_version: int
    traceparent: str
    def __init__(self, drawn: _Optional[float] = ..., sent: _Optional[float] = ..., answered: _Optional[float] = ..., judged: _Optional[float] = ..., admitted_version: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class ScoredGroup(_message.Message):
    __slots__ = ("schema_version", "group_id", "ordinal", "prompt_id", "prompt_token_ids", "trajectories", "rewards", "task", "attempt", "answer", "components", "redraw", "journey")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    REDRAW_FIELD_NUMBER: _ClassVar[int]
    JOURNEY_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    group_id: str
    ordinal: int
    prompt_id: str
    prompt_token_ids: bytes
    trajectories: _containers.RepeatedCompositeFieldContainer[Trajectory]
    rewards: _containers.RepeatedScalarFieldContainer[float]
    task: str
    attempt: int
    answer: str
    components: _containers.RepeatedCompositeFieldContainer[RewardComponent]
    redraw: int
    journey: Journey
    def __init__(self, schema_version: _Optional[int] = ..., group_id: _Optional[str] = ..., ordinal: _Optional[int] = ..., prompt_id: _Optional[str] = ..., prompt_token_ids: _Optional[bytes] = ..., trajectories: _Optional[_Iterable[_Union[Trajectory, _Mapping]]] = ..., rewards: _Optional[_Iterable[float]] = ..., task: _Optional[str] = ..., attempt: _Optional[int] = ..., answer: _Optional[str] = ..., components: _Optional[_Iterable[_Union[RewardComponent, _Mapping]]] = ..., redraw: _Optional[int] = ..., journey: _Optional[_Union[Journey, _Mapping]] = ...) -> None: ...
