"""Scores policies on held-out prompts, through a real replica: pushes the weights, samples, judges.

    python -m ais.collector.evaluation -c FILE --replica HOST:PORT,http://HOST:PORT --output FILE.jsonl \\
        [--prompts 256] [--checkpoints DIR DIR ...]

Without checkpoints the replica's own policy is scored. Each checkpoint is a Hugging Face directory of
safetensors; the number at the end of its name (step-000040) is its step and must rise. Writes one JSON line for
each: {"step", "precision", "reward_mean", "reward_standard_error", "reward_components", "prompts", "sources"}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from ais.collector.evaluating.questions import Asking, Question, Sample, questions_of, scores_of
from ais.collector.evaluating.records import write_records
from ais.collector.evaluating.statistics import components_of
from ais.collector.evaluating.while_training import ATTEMPTS
from ais.collector.exercise import Exercise, open_exercise
from ais.collector.judging.judge import UnjudgedError
from ais.collector.prompts.prompts import Split
from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import Precision
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.contracts.weights.upload import UploadError, these, upload_client, upload_with_retries
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from ais.runtime.security.keyring import open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.settings import SettingsError

CALL_SECONDS = 300.0
"""Deadline of one weight push and of one prompt's generation."""


@dataclass(frozen=True)
class Score:
    """Mean reward of one policy at one precision, over prompts, and the standard error of that mean."""

    step: int
    precision: str
    reward_mean: float
    reward_standard_error: float
    reward_components: dict[str, float]
    """Mean score by named component, over the prompts that have it."""
    prompts: int
    sources: list[dict[str, Any]]
    """The same by source, with pass@k: `ais.contracts.evaluation.results.SourceScore`."""


@dataclass(frozen=True)
class Replica:
    """Where the replica under evaluation listens."""

    grpc_address: str
    http_url: str

    @classmethod
    def parse(cls, text: str) -> Replica:
        grpc_address, separator, http_url = text.partition(",")
        if not separator or not http_url.startswith("http"):
            raise argparse.ArgumentTypeError(f"{text}: expected HOST:PORT,http://HOST:PORT")
        return cls(grpc_address, http_url)


async def score(
    replica: Replica, exercise: Exercise, settings: CollectorProcessSettings, prompts: int, step: int
) -> tuple[Score, list[Sample]]:
    """Scores the policy that the replica serves now, on the first `prompts` held-out prompts of each source, or on each
    that there is; `settings.evaluation` says with how many responses. Raises GenerationError, and UnavailableError
    or UnjudgedError where a response cannot be judged."""
    credential = open_keyring(settings.security, settings.run).credential(Role.COLLECTOR)
    client = GenerationClient(replica.grpc_address, settings.run.use_proxy, credential=credential)
    try:
        return await _score(client, exercise, settings, prompts, step)
    finally:
        await client.close()


async def _score(
    client: GenerationClient, exercise: Exercise, settings: CollectorProcessSettings, prompts: int, step: int
) -> tuple[Score, list[Sample]]:
    description = await client.describe(CALL_SECONDS)
    wanted = settings.evaluation
    groups = int(description.slots * settings.collector.queue_factor) // wanted.samples
    room = asyncio.Semaphore(max(1, groups))
    asking = Asking(
        exercise=exercise,
        name=f"evaluation-{step}",
        samples=wanted.samples,
        sampling=settings.collector.sampling,
        temperature=wanted.temperature,
        seed=settings.run.seed,
        deadline_seconds=CALL_SECONDS,
    )

    async def ask(question: Question) -> Sample:
        async with room:
            for _attempt in range(ATTEMPTS - 1):
                try:
                    return await asking.ask(question, client, description.vocab_size)
                except UnjudgedError as error:  # an environment that did not begin may do so now
                    print(f"asked again: {error}", file=sys.stderr)
            return await asking.ask(question, client, description.vocab_size)

    questions = questions_of(exercise.task, prompts)
    samples = list(await asyncio.gather(*map(ask, questions)))
    rewards = [statistics.fmean(sample.rewards) for sample in samples]
    spread = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
    scored = Score(
        step=step,
        precision=str(Precision.from_proto(description.precision)),
        reward_mean=statistics.fmean(rewards),
        reward_standard_error=spread / math.sqrt(len(rewards)),
        reward_components={name: one.mean for name, one in components_of([one.answered for one in samples]).items()},
        prompts=len(samples),
        sources=[one.model_dump(mode="json") for one in scores_of(questions, samples, wanted.pass_reward)],
    )
    return scored, samples


def weights_of(checkpoint: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order. Raises UnavailableError when there are none."""
    if files := sorted(checkpoint.glob("model*.safetensors")):
        return files
    raise UnavailableError(f"{checkpoint} has no model.safetensors, nor shards of one")


async def push(replica: Replica, checkpoint: Path, version: int, settings: CollectorProcessSettings) -> None:
    """Makes the replica serve the weights of a checkpoint. Raises UnavailableError with the replica's reason."""
    files = weights_of(checkpoint)
    credential = open_keyring(settings.security, settings.run).credential(Role.TRAINER)
    try:
        async with upload_client(CALL_SECONDS, settings.run.use_proxy, credential) as client:
            await upload_with_retries(client, replica.http_url, full_offer(version, files), these(files))
    except (UploadError, WeightsRefusedError) as error:
        raise UnavailableError(f"the replica does not serve the weights of {checkpoint}: {error}") from error


async def evaluate(arguments: argparse.Namespace, settings: CollectorProcessSettings) -> None:
    """Writes a line for each checkpoint, or for the replica's own policy where none is given."""
    async with open_exercise(settings, Split.HELD_OUT) as exercise:
        await _evaluate(arguments, settings, exercise)


async def _evaluate(arguments: argparse.Namespace, settings: CollectorProcessSettings, exercise: Exercise) -> None:
    with arguments.output.open("a", encoding="utf-8") as output:
        for checkpoint in arguments.checkpoints or [None]:
            step = 0
            if checkpoint is not None:
                step = step_of(checkpoint)
                await push(arguments.replica, checkpoint, step, settings)
            result, samples = await score(arguments.replica, exercise, settings, arguments.prompts, step)
            if arguments.records is not None:
                await asyncio.to_thread(write_records, arguments.records, exercise.tokenizer, step, samples)
            output.write(json.dumps(asdict(result)) + "\n")
            output.flush()


def step_of(checkpoint: Path) -> int:
    """step-000040 -> 40. Raises UnavailableError for another name."""
    match = re.search(r"(\d+)$", checkpoint.name)
    if match is None:
        raise UnavailableError(f"checkpoint directory {checkpoint} must end in its step, such as step-000040")
    return int(match.group(1))


def main() -> None:
    run_without_torch()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--replica", type=Replica.parse, required=True)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[])
    parser.add_argument("--records", type=Path, help="file of every response: .jsonl or .parquet")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        settings = read_settings(CollectorProcessSettings, arguments.config, arguments.overrides, whole=False)
        asyncio.run(evaluate(arguments, settings))
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, UnjudgedError, GenerationError, httpx.HTTPError) as error:
        print(f"evaluation failed: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


if __name__ == "__main__":
    main()
