"""Continuous batching as a pure state machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.contracts.trajectory import PolicySpan
from ais.rollout.engine import Completion, GenerationRequest
from ais.rollout.engines.torch_engine.slots import CacheChanges, Group, Slots, policy_spans

STOP = 9


def group(ticket: int, samples: int, new_tokens: int, prompt: tuple[int, ...] = (1, 2, 3)) -> Group:
    sampling = SamplingParameters(max_new_tokens=new_tokens)
    request = GenerationRequest(f"group-{ticket}", prompt, samples, sampling)
    return Group(ticket=ticket, request=request, stop_token_ids=(STOP,), seed=ticket, arrived=0.0)


@dataclass
class Simulation:
    """Plays model and cache: knows whose prompt lies in each row, as the instructions of the slots would have it."""

    slots: Slots
    cache: dict[int, tuple[int, ...]] = field(default_factory=dict)
    prompts_computed: int = 0
    steps: int = 0
    poisoned: int = -1
    """Prompts that begin with this token have no distribution."""
    finished: list[tuple[int, Completion]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)

    def step(self, token: int = 5, version: int = 0) -> CacheChanges:
        changes = self.slots.admit()
        for row in changes.filled:
            self.cache[row] = tuple(self.slots.tokens[row, : self.slots.positions[row]])
            self.prompts_computed += 1
        for sources, targets, positions in (
            (changes.copied_from, changes.copied_to, changes.copied_positions),
            (changes.moved_from, changes.moved_to, changes.moved_positions),
        ):
            assert not set(sources) & set(targets)
            for source, target in zip(sources, targets, strict=True):
                self.cache[target] = self.cache[source][:positions]
        for row in range(self.slots.count):
            prefix = tuple(self.slots.tokens[row, : self.slots.positions[row]])
            assert self.cache.get(row, ())[: len(prefix)] == prefix
            self.cache[row] = (*prefix, self.slots.tokens[row, self.slots.positions[row]])
        count = self.slots.count
        assert count == self.slots.running > 0
        logprobs = np.full(count, -0.5, dtype=np.float32)
        logprobs[[row for row in range(count) if self.slots.tokens[row, 0] == self.poisoned]] = np.nan
        for ended in self.slots.record(np.full(count, token), logprobs, version, now=float(self.steps + 1)):
            if isinstance(ended.outcome, Completion):
                self.finished.append((ended.ticket, ended.outcome))
            else:
                self.failed.append((ended.ticket, str(ended.outcome)))
        self.steps += 1
        return changes

    def run(self) -> None:
        while not self.slots.idle:
            self.step()


def test_a_free_slot_is_refilled_at_the_next_step() -> None:
    simulation = Simulation(Slots(capacity=4, positions=32))
    simulation.slots.submit(group(0, samples=2, new_tokens=1))
    simulation.slots.submit(group(1, samples=6, new_tokens=4))
    simulation.step()
    assert [ticket for ticket, _ in simulation.finished] == [0, 0]
    simulation.step()
    assert (simulation.slots.running, simulation.slots.waiting) == (4, 2)
    simulation.run()
    assert simulation.steps == 4 + 4, "six sequences of four tokens in four slots, two of them free a step late"


def test_a_prompt_is_computed_once_for_its_group_even_when_it_enters_in_parts() -> None:
    simulation = Simulation(Slots(capacity=3, positions=32))
    simulation.slots.submit(group(0, samples=1, new_tokens=1))
    simulation.slots.submit(group(1, samples=3, new_tokens=5))
    simulation.run()
    assert simulation.prompts_computed == 2


def test_a_prompt_of_one_token_needs_nothing_computed() -> None:
    simulation = Simulation(Slots(capacity=3, positions=32))
    simulation.slots.submit(group(0, samples=3, new_tokens=2, prompt=(4,)))
    simulation.run()
    assert simulation.prompts_computed == 0
    assert len(simulation.finished) == 3


def test_a_response_ends_with_its_stop_token_or_at_its_length_or_at_the_context() -> None:
    simulation = Simulation(Slots(capacity=4, positions=8))
    simulation.slots.submit(group(0, samples=1, new_tokens=2))
    simulation.slots.submit(group(1, samples=1, new_tokens=100))
    simulation.step()
    simulation.step()
    ticket, completion = simulation.finished[0]
    assert (ticket, completion.finish_reason, len(completion.token_ids)) == (0, FinishReason.LENGTH, 2)
    simulation.slots.submit(group(2, samples=1, new_tokens=100))
    simulation.step(token=STOP)
    assert [c.finish_reason for _, c in simulation.finished[1:]] == [FinishReason.STOP, FinishReason.STOP]
    assert {ticket: c.token_ids.tolist() for ticket, c in simulation.finished[1:]} == {1: [5, 5, STOP], 2: [STOP]}
    simulation.slots.submit(group(3, samples=1, new_tokens=100))
    simulation.run()
    assert len(simulation.finished[-1][1].token_ids) == 8 - 3, "prompt and response fill the context"


def test_a_cancelled_group_leaves_the_queue_and_the_batch() -> None:
    simulation = Simulation(Slots(capacity=4, positions=32))
    simulation.slots.submit(group(0, samples=6, new_tokens=9))
    simulation.slots.submit(group(1, samples=2, new_tokens=9))
    simulation.step()
    simulation.slots.cancel(0)
    assert (simulation.slots.running, simulation.slots.waiting) == (0, 2)
    simulation.run()
    assert [ticket for ticket, _ in simulation.finished] == [1, 1]


def test_times_count_from_the_arrival_of_the_request() -> None:
    simulation = Simulation(Slots(capacity=1, positions=32))
    simulation.slots.submit(group(0, samples=1, new_tokens=3))
    simulation.run()
    completion = simulation.finished[0][1]
    assert (completion.first_token_seconds, completion.total_seconds) == (1.0, 3.0)


def test_spans_are_the_runs_of_equal_versions() -> None:
    assert policy_spans([3]) == (PolicySpan(3, 0, 1),)
    assert policy_spans([0, 0, 2, 2, 2, 5]) == (PolicySpan(0, 0, 2), PolicySpan(2, 2, 5), PolicySpan(5, 5, 6))


@settings(deadline=None, max_examples=60)
@given(
    capacity=st.integers(1, 5),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=8),
    arrivals=st.lists(st.integers(0, 6), min_size=8, max_size=8),
    cancelled=st.sets(st.integers(0, 7), max_size=2),
)
def test_every_sample_is_finished_exactly_once_from_its_own_prompt(
    capacity: int, shapes: list[tuple[int, int, int]], arrivals: list[int], cancelled: set[int]
) -> None:
    simulation = Simulation(Slots(capacity, positions=16))
    due = sorted(zip(arrivals, range(len(shapes)), strict=False))
    for time in range(20):
        for when, ticket in due:
            samples, new_tokens, prompt = shapes[ticket]
            if when == time:
                simulation.slots.submit(group(ticket, samples, new_tokens, tuple(range(ticket, ticket + prompt))))
            if when + 2 == time and ticket in cancelled:
                simulation.slots.cancel(ticket)
        if not simulation.slots.idle:
            simulation.step()
    simulation.run()
    for ticket, (samples, new_tokens, _) in enumerate(shapes):
        done = sorted(completion.index for other, completion in simulation.finished if other == ticket)
        if ticket in cancelled:
            assert len(set(done)) == len(done)
        else:
            assert done == list(range(samples))
        assert all(len(c.token_ids) == new_tokens for other, c in simulation.finished if other == ticket)


def test_only_a_streamed_group_tells_its_newest_tokens_and_not_the_last() -> None:
    simulation = Simulation(Slots(4, 16))
    simulation.slots.submit(replace(group(0, samples=2, new_tokens=3), streamed=True))
    simulation.slots.submit(group(1, samples=2, new_tokens=3))
    told = []
    for token in (6, 7, 8):
        simulation.step(token)
        told.append([(one.ticket, one.sampled.index, one.sampled.token_ids) for one in simulation.slots.newest()])
        assert all(one.sampled.logprobs == (-0.5,) for one in simulation.slots.newest())
    assert told == [[(0, 0, (6,)), (0, 1, (6,))], [(0, 0, (7,)), (0, 1, (7,))], []]
    assert len(simulation.finished) == 4


def test_a_row_without_a_distribution_fails_alone_and_frees_its_place() -> None:
    simulation = Simulation(Slots(4, 16), poisoned=9)
    for ticket, first in enumerate((1, 9, 2)):
        simulation.slots.submit(group(ticket, samples=2, prompt=(first, 3), new_tokens=3))
    simulation.run()
    assert sorted(ticket for ticket, _ in simulation.finished) == [0, 0, 2, 2]
    assert [ticket for ticket, _ in simulation.failed] == [1, 1]
    assert "sample 0 of group-1" in simulation.failed[0][1]
    assert "token 0 " in simulation.failed[0][1]
    assert all(np.isfinite(completion.logprobs).all() for _, completion in simulation.finished)


def test_the_row_of_a_sequence_that_has_ended_is_not_occupied() -> None:
    """A new policy computes again what is before each occupied row's next token, and nothing else."""
    slots = Slots(capacity=4, positions=16)
    slots.submit(group(0, samples=2, new_tokens=5))
    slots.submit(group(1, samples=1, new_tokens=1))
    slots.admit()
    assert slots.occupied == [0, 1, 2]
    slots.record(np.full(3, 5), np.full(3, -0.5, dtype=np.float32), version=0, now=1.0)
    assert (slots.occupied, slots.count) == ([0, 1], 3)
