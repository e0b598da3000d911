"""The replay engine: everything a replica does but compute. Weights are taken and their version served; tokens and
log-probs are those of a recording, whatever the weights."""

from __future__ import annotations

import asyncio
import json
import math
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ais.contracts.recording import read_recording
from ais.contracts.sampling import FinishReason, Precision
from ais.contracts.trajectory import MalformedRecordError, ScoredGroup, Trajectory, TrajectoryBounds
from ais.rollout.engine import (
    Completion,
    EngineDescription,
    EngineLoad,
    EngineObserver,
    GenerationRequest,
    ModelUnsupportedError,
    WeightSwap,
)
from ais.rollout.engines.life import Call, EngineLife, sample_each
from ais.rollout.engines.limits import Limits
from ais.rollout.engines.replay_engine.pace import Pace, Slots, Swap, replayed_spans
from ais.rollout.engines.snapshots import digest_of_files, snapshot_files, tensor_shapes
from ais.rollout.settings import RolloutSettings


@dataclass(frozen=True)
class ReplayedModel:
    """What the model directory says of the policy that is not computed."""

    model_type: str
    vocab_size: int
    parameter_count: int
    digest: str


class Recording:
    """Recorded groups, found by prompt."""

    def __init__(self, name: str, groups: Iterable[ScoredGroup]) -> None:
        """`groups`: one or more."""
        self.name = name
        self._groups = list(groups)
        self._by_prompt: dict[bytes, list[ScoredGroup]] = {}
        for group in self._groups:
            self._by_prompt.setdefault(group.prompt_token_ids.tobytes(), []).append(group)

    def responses(self, request: GenerationRequest) -> tuple[Trajectory, ...]:
        """Those of a group recorded for the same prompt where there is one, else of any; always the same for a name."""
        prompt = np.asarray(request.prompt_token_ids, dtype=np.int32).tobytes()
        groups = self._by_prompt.get(prompt, self._groups)
        return groups[zlib.crc32(request.group_id.encode()) % len(groups)].trajectories


class ReplayEngine(EngineLife):
    """Implements `ais.rollout.engine.Engine`. Make one with `open`, inside the event loop that will use it."""

    def __init__(
        self,
        model: ReplayedModel,
        recording: Recording,
        precision: Precision,
        pace: Pace,
        observer: EngineObserver,
        slots: int,
        limits: Limits,
    ) -> None:
        super().__init__(limits)
        self._model = model
        self._recording = recording
        self._precision = precision
        self._pace = pace
        self._observer = observer
        self._slots = Slots(slots)
        self._swaps = [Swap(-math.inf, 0)]
        self._digest = model.digest

    @classmethod
    async def open(cls, directory: Path, settings: RolloutSettings, observer: EngineObserver) -> ReplayEngine:
        """Reads recording and model directory, but no tensor. Raises ModelUnsupportedError."""
        file = settings.replay.recording
        if file is None:
            raise ModelUnsupportedError("the replay engine needs rollout.replay.recording, a file of recorded groups")
        model = await asyncio.to_thread(_read_model, directory)
        try:
            groups = await asyncio.to_thread(lambda: list(read_recording(file, TrajectoryBounds(model.vocab_size))))
        except (OSError, MalformedRecordError) as error:
            raise ModelUnsupportedError(f"rollout.replay.recording: {file} cannot be replayed: {error}") from error
        if not groups:
            raise ModelUnsupportedError(f"rollout.replay.recording: {file} has no groups")
        return cls(
            model,
            Recording(file.name, groups),
            settings.precision,
            Pace(settings.replay.first_token_seconds, settings.replay.tokens_per_second),
            observer,
            settings.slots,
            Limits(model.vocab_size, settings.max_model_len, settings.slots + settings.max_waiting_sequences),
        )

    async def sample(self, call: Call) -> None:
        arrived = time.monotonic()
        responses = self._recording.responses(call.request)
        await sample_each(
            call, lambda index: self._replay(call.request, index, responses[index % len(responses)], arrived)
        )

    async def release(self) -> None:
        """Nothing is held."""

    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:  # noqa: ARG002
        """The bytes were verified on their way in; here is nobody to look into them."""
        self._swaps.append(Swap(time.monotonic(), version))
        self._digest = digest
        return WeightSwap(staging_seconds=0.0, paused_seconds=0.0, probe_gap=None)

    def describe(self) -> EngineDescription:
        return EngineDescription(
            engine="replay",
            engine_version=self._recording.name,
            model_type=self._model.model_type,
            vocab_size=self._model.vocab_size,
            max_model_len=self._limits.max_model_len,
            parameter_count=self._model.parameter_count,
            precision=self._precision,
            version=self._swaps[-1].version,
            digest=self._digest,
        )

    def load(self) -> EngineLoad:
        running = min(self._slots.taken, self.outstanding)
        return EngineLoad(running, self.outstanding - running, self._slots.capacity)

    async def _replay(self, request: GenerationRequest, index: int, recorded: Trajectory, arrived: float) -> Completion:
        longest = min(request.sampling.max_new_tokens, self._limits.max_model_len - len(request.prompt_token_ids))
        tokens = min(longest, len(recorded.token_ids))
        begin = await self._slots.enter(arrived)
        ended = self._pace.due(begin, tokens - 1)
        try:
            await asyncio.sleep(ended - time.monotonic())
        except asyncio.CancelledError:
            ended = time.monotonic()
            raise
        finally:
            self._slots.leave(ended)
        self._observer.decode_step(1 / self._pace.tokens_per_second, tokens)  # one step stands for all of them
        return Completion(
            index=index,
            token_ids=recorded.token_ids[:tokens],
            logprobs=recorded.behaviour_logprobs[:tokens],
            spans=replayed_spans(self._pace, begin, tokens, self._swaps),
            finish_reason=recorded.finish_reason if tokens == len(recorded.token_ids) else FinishReason.LENGTH,
            first_token_seconds=self._pace.due(begin, 0) - arrived,
            total_seconds=ended - arrived,
            queued_seconds=begin - arrived,
            kept=recorded.kept.first(tokens) if recorded.kept is not None else None,
        )


def _read_model(directory: Path) -> ReplayedModel:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        model_type, vocab_size = str(config["model_type"]), int(config["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnsupportedError(
            f"{directory} has no config.json with model_type and vocab_size: {error}"
        ) from error
    files = snapshot_files(directory)
    shapes = tensor_shapes(files, tied_embeddings=bool(config.get("tie_word_embeddings")))
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return ReplayedModel(model_type, vocab_size, parameters, digest_of_files(files))
