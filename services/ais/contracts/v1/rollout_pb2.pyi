from ais.contracts.v1 import trajectory_pb2 as _trajectory_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateRequest(_message.Message):
    __slots__ = ("group_id", "prompt_token_ids", "samples", "sampling", "for_training")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    FOR_TRAINING_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    prompt_token_ids: bytes
    samples: int
    sampling: _trajectory_pb2.SamplingParameters
    for_training: bool
    def __init__(self, group_id: _Optional[str] = ..., prompt_token_ids: _Optional[bytes] = ..., samples: _Optional[int] = ..., sampling: _Optional[_Union[_trajectory_pb2.SamplingParameters, _Mapping]] = ..., for_training: _Optional[bool] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("sample_index", "token_ids", "behaviour_logprobs", "finished")
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    sample_index: int
    token_ids: bytes
    behaviour_logprobs: bytes
    finished: _trajectory_pb2.Trajectory
    def __init__(self, sample_index: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., behaviour_logprobs: _Optional[bytes] = ..., finished: _Optional[_Union[_trajectory_pb2.Trajectory, _Mapping]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("replica_id", "engine", "engine_version", "precision", "model_type", "parameter_count", "vocab_size", "max_model_len", "policy_version", "policy_digest", "slots", "running_sequences", "waiting_sequences", "model_digest", "tokenizer_digest", "run_name")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    engine: str
    engine_version: str
    precision: _trajectory_pb2.Precision
    model_type: str
    parameter_count: int
    vocab_size: int
    max_model_len: int
    policy_version: int
    policy_digest: str
    slots: int
    running_sequences: int
    waiting_sequences: int
    model_digest: str
    tokenizer_digest: str
    run_name: str
    def __init__(self, replica_id: _Optional[str] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., precision: _Optional[_Union[_trajectory_pb2.Precision, _Mapping]] = ..., model_type: _Optional[str] = ..., parameter_count: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_model_len: _Optional[int] = ..., policy_version: _Optional[int] = ..., policy_digest: _Optional[str] = ..., slots: _Optional[int] = ..., running_sequences: _Optional[int] = ..., waiting_sequences: _Optional[int] = ..., model_digest: _Optional[str] = ..., tokenizer_digest: _Optional[str] = ..., run_name: _Optional[str] = ...) -> None: ...
