"""The generation API: gRPC in front of an engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

import grpc
import numpy as np
from pydantic import ValidationError

from ais.contracts.handing_back import HANDED_BACK
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import (
    LOGPROB_DTYPE,
    TOKEN_DTYPE,
    MalformedRecordError,
    Trajectory,
    decode_token_ids,
    encode_trajectory,
)
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.rollout.engine import (
    Completion,
    Engine,
    EngineDescription,
    EngineDrainingError,
    EngineFailedError,
    EngineFullError,
    GenerationRequest,
    InvalidRequestError,
    SamplingFailedError,
)
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.sampling_span import sampling_span
from ais.runtime.text import printable
from ais.runtime.tracing.correlation import about_group

RETRY_METADATA = "grpc-retry-pushback-ms"
"""Trailing metadata that tells when to come back; gRPC clients with a retry policy obey it by themselves."""
LONGEST_GROUP_ID = 512
"""Characters of a group's name."""
LONGEST_INPUT = 100
"""Characters of a wrong value that a refusal repeats."""
VERSIONS_REMEMBERED = 256
"""Versions whose digests are kept: no response is sampled by more."""

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[rollout_pb2.GenerateRequest, object]


@dataclass(frozen=True)
class ReplicaIdentity:
    """What a replica is for as long as it lives, whichever weights it serves."""

    replica_id: str
    run_name: str
    model: ModelIdentity


class GenerationService(rollout_pb2_grpc.RolloutServicer):
    """Implements `ais.v1.Rollout`."""

    def __init__(self, engine: Engine, identity: ReplicaIdentity, metrics: RolloutMetrics) -> None:
        self._engine = engine
        self._identity = identity
        self._metrics = metrics
        self._digests: OrderedDict[int, str] = OrderedDict()
        """By version, newest last: a response says which weights sampled it."""

    def note_version(self) -> None:
        """Remembers the digest of the version served now. Call it after each swap of weights."""
        description = self._engine.describe()
        self._digests[description.version] = description.digest
        self._digests.move_to_end(description.version)
        if len(self._digests) > VERSIONS_REMEMBERED:
            self._digests.popitem(last=False)

    async def Generate(self, request: rollout_pb2.GenerateRequest, context: Context) -> None:  # noqa: N802
        """Streams each trajectory at once; a call that ends early, for whatever reason, frees its slots."""
        async with self._answering(context):
            with sampling_span(request, context) as sampling:
                generation = self._decoded(request)
                async with aclosing(self._engine.generate(generation)) as completions:
                    async for completion in completions:
                        sampling.takes(completion)
                        await context.write(self._encoded(generation, completion))

    async def Stream(self, request: rollout_pb2.GenerateRequest, context: Context) -> None:  # noqa: N802
        """The same, with tokens as they are sampled."""
        async with self._answering(context):
            with sampling_span(request, context) as sampling:
                generation = self._decoded(request)
                async with aclosing(self._engine.stream(generation)) as outcomes:
                    async for outcome in outcomes:
                        progress = rollout_pb2.Progress(sample_index=outcome.index)
                        if isinstance(outcome, Completion):
                            sampling.takes(outcome)
                            progress.finished.CopyFrom(self._encoded(generation, outcome))
                        else:
                            progress.token_ids = np.asarray(outcome.token_ids, dtype=TOKEN_DTYPE).tobytes()
                            logprobs = np.asarray(outcome.logprobs, dtype=LOGPROB_DTYPE)
                            progress.behaviour_logprobs = logprobs.tobytes()
                        await context.write(progress)

    def _decoded(self, request: rollout_pb2.GenerateRequest) -> GenerationRequest:
        self.note_version()
        generation = decode_request(request, self._engine.describe().vocab_size)
        about_group(generation.group_id)
        logger.debug("a group is sampled", extra={"samples": generation.samples})
        return generation

    @asynccontextmanager
    async def _answering(self, context: Context) -> AsyncIterator[None]:
        """Measures a call, and ends it with the status of what is raised."""
        begun = time.monotonic()
        status = grpc.StatusCode.OK
        try:
            yield
        except (InvalidRequestError, MalformedRecordError) as error:
            status = grpc.StatusCode.INVALID_ARGUMENT
            await self._refuse(context, status, error.field, str(error))
        except EngineFullError as error:
            status = grpc.StatusCode.RESOURCE_EXHAUSTED
            pushback = ((RETRY_METADATA, str(round(error.retry_after_seconds * 1000))),)
            await self._refuse(context, status, "queue", str(error), pushback)
        except EngineDrainingError as error:
            status = grpc.StatusCode.UNAVAILABLE
            await self._refuse(context, status, "draining", str(error), (HANDED_BACK,))
        except SamplingFailedError as error:
            status = grpc.StatusCode.INTERNAL
            await self._refuse(context, status, "policy", str(error))
        except EngineFailedError as error:
            status = grpc.StatusCode.UNAVAILABLE
            await context.abort(status, printable(str(error)))
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        finally:
            self._metrics.call_seconds.labels(status.name.lower()).observe(time.monotonic() - begun)

    async def Describe(  # noqa: N802
        self, _request: rollout_pb2.DescribeRequest, _context: Context
    ) -> rollout_pb2.DescribeResponse:
        description, load = self._engine.describe(), self._engine.load()
        return rollout_pb2.DescribeResponse(
            replica_id=self._identity.replica_id,
            run_name=self._identity.run_name,
            model_digest=self._identity.model.model_digest,
            tokenizer_digest=self._identity.model.tokenizer_digest,
            engine=description.engine,
            engine_version=description.engine_version,
            precision=description.precision.to_proto(),
            model_type=description.model_type,
            parameter_count=description.parameter_count,
            vocab_size=description.vocab_size,
            max_model_len=description.max_model_len,
            policy_version=description.version,
            policy_digest=description.digest,
            slots=load.slots,
            running_sequences=load.running_sequences,
            waiting_sequences=load.waiting_sequences,
        )

    async def _refuse(
        self,
        context: Context,
        status: grpc.StatusCode,
        field: str,
        message: str,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> NoReturn:
        self._metrics.count_refusal(field)
        await context.abort(status, printable(message), metadata)

    def _encoded(self, request: GenerationRequest, completion: Completion) -> pb.Trajectory:
        self._metrics.finished(completion.finish_reason, len(completion.token_ids))
        self.note_version()
        spans = tuple(replace(span, digest=self._digests.get(span.version, "")) for span in completion.spans)
        description, replica_id = self._engine.describe(), self._identity.replica_id
        return encode_trajectory(_trajectory(request, replace(completion, spans=spans), description, replica_id))


def decode_request(message: rollout_pb2.GenerateRequest, vocab_size: int) -> GenerationRequest:
    """Raises InvalidRequestError or MalformedRecordError, both with the field that is wrong."""
    name = message.group_id
    if not (0 < len(name) <= LONGEST_GROUP_ID and name.isprintable()):
        got = f"{len(name)}: {printable(name, LONGEST_INPUT)}"
        raise InvalidRequestError("group_id", f"expected 1 to {LONGEST_GROUP_ID} printable characters, got {got}")
    prompt = decode_token_ids(message.prompt_token_ids, vocab_size, "prompt_token_ids")
    try:
        sampling = SamplingParameters.from_proto(message.sampling)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("sampling", *first["loc"])))
        got = printable(repr(first["input"]), LONGEST_INPUT)
        raise InvalidRequestError(field, f"{first['msg']}, got {got}") from error
    return GenerationRequest(name, tuple(prompt.tolist()), message.samples, sampling, message.for_training)


def _trajectory(
    request: GenerationRequest, completion: Completion, description: EngineDescription, replica_id: str
) -> Trajectory:
    return Trajectory(
        trajectory_id=f"{request.group_id}/{completion.index}",
        group_id=request.group_id,
        sample_index=completion.index,
        token_ids=completion.token_ids,
        behaviour_logprobs=completion.logprobs,
        spans=completion.spans,
        finish_reason=completion.finish_reason,
        sampling=request.sampling,
        precision=description.precision,
        engine=description.engine,
        engine_version=description.engine_version,
        replica_id=replica_id,
        first_token_seconds=completion.first_token_seconds,
        total_seconds=completion.total_seconds,
        kept=completion.kept,
        routed=completion.routed,
    )
