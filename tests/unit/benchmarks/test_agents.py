"""What `ais bench agents` counts by itself."""

from __future__ import annotations

from benchmarks.agents.episodes import Shape, episode
from benchmarks.agents.prefill import prefill


def test_an_episode_is_the_same_each_time_and_has_its_shape() -> None:
    shape = Shape(turns=3, prompt=5, answer=4, told=2)
    assert episode(7, shape) == episode(7, shape) != episode(8, shape)
    assert [len(text) for text in (*episode(7, shape).said, *episode(7, shape).answers)] == [5, 2, 2, 3, 3, 3]


def test_one_replica_computes_each_prompt_once_and_then_what_is_told() -> None:
    counted = prefill(Shape(turns=3, prompt=100, answer=10, told=5), replicas=1, groups=2, samples=4)
    assert counted.by_group == counted.at_random == 2 * (100 + 4 * 2 * 5)
    assert counted.uncached == 2 * 4 * (100 + 115 + 130)
    assert counted.saved == 0.0


def test_the_more_replicas_the_more_is_computed_again_at_random_and_never_more_than_without_caches() -> None:
    found = [prefill(Shape(), replicas, groups=16, samples=8) for replicas in (1, 2, 4, 8, 1000)]
    assert [one.at_random for one in found] == sorted(one.at_random for one in found)
    assert len({one.by_group for one in found}) == 1
    assert found[-1].at_random > 0.95 * found[-1].uncached
