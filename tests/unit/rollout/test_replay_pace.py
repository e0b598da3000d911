"""The pace of replayed sequences: who goes when, and which version a token was due under."""

from __future__ import annotations

import asyncio

import pytest

from ais.contracts.trajectory import PolicySpan
from ais.rollout.engines.replay_engine.pace import Pace, Slots, Swap, replayed_spans

PACE = Pace(first_token_seconds=1.0, tokens_per_second=10.0)
BEGINNING = Swap(float("-inf"), 0)


def test_tokens_are_due_one_after_the_other_from_the_first_on() -> None:
    assert PACE.due(5.0, 0) == 6.0
    assert PACE.due(5.0, 10) == pytest.approx(7.0)
    assert PACE.due_before(5.0, 6.0) == 0
    assert PACE.due_before(5.0, 6.05) == 1


def test_tokens_due_after_a_swap_carry_the_new_version() -> None:
    spans = replayed_spans(PACE, 0.0, 20, [BEGINNING, Swap(1.45, 1), Swap(1.95, 2)])
    assert spans == (PolicySpan(0, 0, 5), PolicySpan(1, 5, 10), PolicySpan(2, 10, 20))


def test_a_version_that_came_before_or_after_a_sequence_has_no_part_of_it() -> None:
    assert replayed_spans(PACE, 3.0, 4, [BEGINNING, Swap(2.0, 1), Swap(9.0, 2)]) == (PolicySpan(1, 0, 4),)


def test_a_version_overtaken_before_the_next_token_has_no_span() -> None:
    assert replayed_spans(PACE, 0.0, 4, [BEGINNING, Swap(1.12, 1), Swap(1.15, 2)]) == (
        PolicySpan(0, 0, 2),
        PolicySpan(2, 2, 4),
    )


async def test_a_slot_passes_on_at_the_time_it_was_due_to_be_free_in_the_order_of_coming() -> None:
    slots = Slots(1)
    assert await slots.enter(10.0) == 10.0
    second, third = asyncio.create_task(slots.enter(11.0)), asyncio.create_task(slots.enter(12.0))
    await asyncio.sleep(0)
    slots.leave(20.0)
    assert await second == 20.0
    assert not third.done()
    slots.leave(11.5)
    assert await third == 12.0  # not before it came
    slots.leave(30.0)
    assert slots.taken == 0


async def test_who_no_longer_waits_does_not_get_a_slot() -> None:
    slots = Slots(1)
    await slots.enter(0.0)
    second, third = asyncio.create_task(slots.enter(1.0)), asyncio.create_task(slots.enter(2.0))
    await asyncio.sleep(0)
    slots.leave(3.0)  # the second's turn, which it is too late to take
    second.cancel()
    assert await third == 3.0
    slots.leave(4.0)
    assert slots.taken == 0
