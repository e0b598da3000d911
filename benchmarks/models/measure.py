"""One family in one engine and one number format: does it load, how far is it from the trainer, do updates work?"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds
from ais.contracts.weights.delta import encode_delta
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.contracts.weights.upload import UploadError, these, upload
from ais.runtime.security.roles import Role
from ais.trainer.policy.microbatch import Sample
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.weights.snapshot import write_snapshot
from ais_core import summarize
from benchmarks.mismatch import measure as sums_of
from benchmarks.models.families import VOCABULARY, write_family
from benchmarks.models.ranks import FIRST, OTHER, alike, apart, publish, publish_by_ranks
from benchmarks.updates import http_client, replica, snapshots

BF16 = ("rollout.precision.weights=bf16",)
KV = (*BF16, "rollout.precision.kv_cache=e4m3")
CALIBRATED = "kv_calibrated"
TWO_RANKS = "two_ranks"
"""BF16 too, and its versions are what two ranks of the trainer published."""
FORMATS: dict[str, tuple[str, ...]] = {
    "bf16": BF16,
    "fp8": (),
    "int8": ("rollout.precision.weights=int8", "rollout.precision.activations=int8"),
    "kv_one": (*KV, "rollout.precision.kv_scale=one"),
    "kv_token": (*KV, "rollout.precision.kv_scale=token"),
    CALIBRATED: (*KV, "rollout.precision.kv_scale=calibrated"),
    TWO_RANKS: BF16,
}
"""Overrides of a replica's settings, whose default is FP8: E4M3 weights by channel and E4M3 activations. The cache is
alone in E4M3 where it is."""
OF_ENGINE = {
    "torch": ("bf16", "fp8", "int8", "kv_token", CALIBRATED, TWO_RANKS),
    "vllm": ("bf16", "fp8", "int8", "kv_one", TWO_RANKS),
}
"""What is asked of each. vLLM's cache has no scale but 1."""
ONE, SEVERAL = "by_one", "by_two"
GROUPS, SAMPLES, PROMPT, RESPONSE = 4, 8, 12, 32
CALL_SECONDS = 120.0
UPDATE_SIZE = 1e-5
"""How far a training step moves each weight, for the size of its delta: Adam's step at that learning rate."""
ERROR = re.compile(r" ERROR +rollout: (.+)")
REASON = 400
"""Characters of a reason."""


@dataclass(frozen=True)
class Cell:
    """What one replica showed."""

    family: str
    engine: str
    format: str
    refused: str = ""
    """Why it does not serve; then nothing below was measured."""
    log_ratio: float = 0.0
    """Mean |log-ratio| of the trainer and the replica, nats a token."""
    k3: float = 0.0
    probe_gap: float = 0.0
    """The largest mean gap to the trainer's log-probs that the replica found when it took other weights."""
    log_ratio_after: float = 0.0
    """As `log_ratio`, after the update to other weights."""
    restored: bool = False
    """Whether going to other weights and back gives the same log-probs, to the bit."""
    delta_share: float = 0.0
    """Bytes of the delta of one training step over those of the whole version."""
    ranks_alike: bool | None = None
    """Whether two ranks publish what one does, to the bit, before a step of training; None where one published."""
    ranks_apart: float | None = None
    """How far the two are from each other after a step, over how far the step went."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def measure(family: str, engine: str, format_: str, log: Path) -> Cell:
    """Serves the family by a real replica, samples, pushes other weights and the first ones again."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = write_family(family, directory / "model")
        by_ranks = format_ == TWO_RANKS
        first, other = _by_ranks(model, directory) if by_ranks else _by_one(model, directory)
        share = _delta_share(model, directory)
        try:
            async with replica(engine, model, FORMATS[format_], log) as (_, record, keyring):
                client = GenerationClient(record.grpc_address, credential=keyring.credential(Role.COLLECTOR))
                async with contextlib.aclosing(Closing(client)), http_client(record, keyring, Role.TRAINER) as http:

                    async def pushed(version: int, policy: Path) -> float:
                        files = [policy / "model.safetensors"]
                        status = await upload(http, str(http.base_url), full_offer(version, files), these(files))
                        return status.probe_gap or 0.0

                    if format_ == CALIBRATED:  # on a probe's sequences, and only what was pushed has one
                        await pushed(1, first)
                    groups, before = await sampled(client), await _alone(client)
                    gap = await pushed(2, other)
                    others = await sampled(client)
                    await pushed(3, first)
                    after = await _alone(client)
        except WeightsRefusedError as error:
            return Cell(family, engine, format_, refused=f"it serves, and refuses other weights: {error}"[:REASON])
        except (RuntimeError, TimeoutError, UploadError) as error:
            return Cell(family, engine, format_, refused=_reason(log, error))
        trainer = summarize(sums_of(Policy.load(model, "cpu"), groups, 4096).sum(0))
        trainer_after = summarize(sums_of(Policy.load(other, "cpu"), others, 4096).sum(0))
        return Cell(
            family,
            engine,
            format_,
            log_ratio=trainer.mean_abs_log_ratio,
            k3=trainer.k3,
            probe_gap=gap,
            log_ratio_after=trainer_after.mean_abs_log_ratio,
            restored=bool(np.array_equal(before, after)),
            delta_share=share,
            ranks_alike=alike(directory / ONE, directory / SEVERAL) if by_ranks else None,
            ranks_apart=apart(directory / ONE, directory / SEVERAL) if by_ranks else None,
        )


@dataclass
class Closing:
    """A client as `aclosing` wants it."""

    client: GenerationClient

    async def aclose(self) -> None:
        await self.client.close()


async def sampled(client: GenerationClient, for_training: bool = False) -> list[list[Sample]]:
    """Groups of random prompts."""
    generator = torch.Generator().manual_seed(0)
    prompts: list[list[int]] = torch.randint(2, VOCABULARY, (GROUPS, PROMPT), generator=generator).tolist()
    sampling = SamplingParameters(max_new_tokens=RESPONSE)

    async def group(number: int, prompt: list[int]) -> list[Sample]:
        bounds = TrajectoryBounds(vocab_size=VOCABULARY)
        found = await client.generate(
            *(f"models-{number}", prompt, SAMPLES, sampling, bounds, CALL_SECONDS), for_training=for_training
        )
        return [Sample(np.array(prompt, dtype=np.int32), one) for one in found]

    return list(await asyncio.gather(*(group(number, prompt) for number, prompt in enumerate(prompts))))


async def _alone(client: GenerationClient) -> np.ndarray:
    """Log-probs of one seeded response that shares no step with another."""
    sampling = SamplingParameters(max_new_tokens=RESPONSE, seed=1)
    bounds = TrajectoryBounds(vocab_size=VOCABULARY)
    (one,) = await client.generate("alone", list(range(2, 2 + PROMPT)), 1, sampling, bounds, CALL_SECONDS)
    return np.concatenate((one.token_ids.astype(np.float64), one.behaviour_logprobs.astype(np.float64)))


def _by_one(model: Path, directory: Path) -> tuple[Path, Path]:
    """Two versions with their probes, as Hugging Face directories."""
    versions = [directory / name for name in (FIRST, OTHER)]
    for version, snapshot in zip(versions, snapshots(model), strict=True):
        version.mkdir()
        snapshot.place_in(version)
        shutil.copyfile(model / "config.json", version / "config.json")
    return versions[0], versions[1]


def _by_ranks(model: Path, directory: Path) -> tuple[Path, Path]:
    """What two ranks publish before a step of training and after it; and one process too, to compare."""
    publish_by_ranks([model], directory / "by_ranks", directory / "log")
    (directory / "by_ranks" / model.name).rename(directory / SEVERAL)
    publish(model, directory / ONE, Ranks(torch.device("cpu")))
    return directory / SEVERAL / FIRST, directory / SEVERAL / OTHER


def _delta_share(model: Path, directory: Path) -> float:
    """A step moves each weight by `UPDATE_SIZE`, up or down."""
    policy = Policy.load(model, "cpu")
    base = write_snapshot(0, policy.shapes, policy.weights())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.masters.values():
            weight.add_(UPDATE_SIZE * (2 * torch.randint(0, 2, weight.shape, generator=generator) - 1))
    new = write_snapshot(1, policy.shapes, policy.weights())
    sizes = [
        encode_delta(old.path, one.path, directory / "delta", one.digest).size
        for old, one in zip(base.files, new.files, strict=True)
    ]
    return sum(sizes) / new.size


def _reason(log: Path, error: Exception) -> str:
    """The replica's own last word, else what was waited for in vain."""
    said = ERROR.findall(log.read_text(encoding="utf-8", errors="replace"))
    return (said[-1] if said else f"{type(error).__name__}: {error}")[:REASON]
