"""The tree that a version spreads through: everyone once, nobody with more than the fan-out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.weights.offer import RelayTarget
from ais.trainer.weights.push_plan import Branch, branches


def everyone(tree: list[Branch]) -> list[str]:
    return [name for branch in tree for name in (branch.root, *branch.below())]


def depth(tree: tuple[Branch, ...] | list[Branch]) -> int:
    return 1 + max(depth(branch.children) for branch in tree) if tree else 0


def widest(tree: tuple[Branch, ...] | list[Branch]) -> int:
    return max([len(tree), *(widest(branch.children) for branch in tree)])


@given(st.integers(0, 200), st.integers(1, 9))
def test_everyone_is_in_it_once_and_nobody_sends_to_more_than_the_fanout(count: int, fanout: int) -> None:
    names = [f"replica-{index}" for index in range(count)]
    tree = branches(names, fanout, fanout)
    assert sorted(everyone(tree)) == sorted(names)
    assert widest(tree) <= fanout


def test_it_is_as_flat_as_the_fanout_allows() -> None:
    assert [depth(branches([str(index) for index in range(count)], 2, 2)) for count in (2, 6, 14, 15)] == [1, 2, 3, 4]


def test_fewer_roots_carry_the_same_replicas() -> None:
    (only,) = branches(["a", "b", "c", "d"], 1, 2)
    assert (only.root, sorted(only.below())) == ("a", ["b", "c", "d"])
    assert branches(["a"], 0, 2) == []


def test_targets_name_the_addresses_below() -> None:
    (tree,) = branches(["a", "b", "c"], 1, 1)
    assert tree.targets({"a": "http://a", "b": "http://b", "c": "http://c"}) == (
        RelayTarget(url="http://b", children=(RelayTarget(url="http://c"),)),
    )
