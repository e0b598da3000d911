"""Who sends a version to whom: the trainer to a few replicas, these to the others, in a tree. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ais.contracts.weights.offer import RelayTarget


@dataclass(frozen=True)
class Branch:
    """A replica that the trainer sends to, and those that get it from there."""

    root: str
    """Replica id."""
    children: tuple[Branch, ...]

    def below(self) -> list[str]:
        """Replica ids of everyone under the root."""
        return [name for child in self.children for name in (child.root, *child.below())]

    def targets(self, urls: dict[str, str]) -> tuple[RelayTarget, ...]:
        """The root's part of an offer; `urls` by replica id. Who has none has left, with those below."""
        return tuple(
            RelayTarget(url=urls[child.root], children=child.targets(urls))
            for child in self.children
            if child.root in urls
        )


def branches(replica_ids: Sequence[str], roots: int, fanout: int) -> list[Branch]:
    """Up to `roots` branches over all of `replica_ids`, as even as can be; nobody sends to more than `fanout` others.

    The first ones are the roots.
    """
    if roots < 1:
        return []
    rest = replica_ids[roots:]
    return [
        Branch(root, tuple(branches(rest[place::roots], fanout, fanout)))
        for place, root in enumerate(replica_ids[:roots])
    ]
