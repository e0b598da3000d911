"""One prompt asked of a replica and judged: a group of single responses, or of episodes."""

from __future__ import annotations

from collections.abc import Callable

from ais.collector.episodes.call import Answers, Call, Verify
from ais.collector.episodes.harnessed import play_by_programs
from ais.collector.episodes.playing import play
from ais.collector.episodes.table import Table
from ais.collector.exercise import Exercise
from ais.collector.prompts.prompts import Prompt
from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.contracts.trajectory import MalformedRecordError, Trajectory, TrajectoryBounds


async def answers(
    exercise: Exercise,
    prompt: Prompt,
    client: GenerationClient,
    call: Call,
    verify: Verify | None = None,
    on_arrival: Callable[[], object] = lambda: None,
) -> Answers:
    """The judged group; `on_arrival` is called for each trajectory as it comes.

    Raises GenerationError, also where `verify` raises MalformedRecordError for trajectories that must not be used.
    Where one cannot be judged, raises UnavailableError to end the run or UnjudgedError to have the group again.
    """
    host, harness = exercise.host(prompt), exercise.harness(prompt)
    try:
        if host is not None:
            played = await play(Table(exercise, host.settings, prompt, client, call), host, on_arrival)
            await _check(played.trajectories, call, verify)
            return played
        if harness is not None:
            table = Table(exercise, harness.settings, prompt, client, call)
            played = await play_by_programs(table, harness, on_arrival)
            await _check(played.trajectories, call, verify)
            return played
        token_ids = exercise.tokenizer.encode_prompt(prompt.question)
        bounds = TrajectoryBounds(vocab_size=call.vocab_size)
        trajectories = await client.generate(
            *(call.name, token_ids, call.samples, call.sampling, bounds, call.deadline_seconds, on_arrival),
            for_training=call.is_trained_on,
        )
        await _check(trajectories, call, verify)
    except MalformedRecordError as error:
        raise GenerationError("malformed", str(error), field=error.field) from error
    return Answers(token_ids, trajectories, await exercise.judged(prompt, trajectories))


async def _check(trajectories: tuple[Trajectory, ...], call: Call, verify: Verify | None) -> None:
    """Raises MalformedRecordError where a token was sampled by a version before the one that the replica served, and
    whatever `verify` raises."""
    if (oldest := min(trajectory.oldest_version for trajectory in trajectories)) < call.served:
        raise MalformedRecordError(
            "trajectory.spans.version", f"the replica served {call.served} already, got {oldest}"
        )
    if verify is not None:
        await verify(trajectories)
