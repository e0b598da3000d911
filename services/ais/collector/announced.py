"""Which bytes each policy version is, by the trainer's word. Pure."""

from __future__ import annotations

from collections import defaultdict

from ais.contracts.trajectory import MalformedRecordError, Trajectory

VERSIONS_KEPT = 1_024
"""Versions behind the newest whose digests are kept: nothing eligible was sampled by older ones."""


class Announced:
    """Digests of the versions that the trainer has announced.

    A trainer that resumed makes some versions again, with other bytes. Replicas must serve the newest ones; tokens that
    were sampled before stay valid, because the policy that sampled them existed and their log-probs are its own.
    """

    def __init__(self) -> None:
        self._digests: defaultdict[int, list[str]] = defaultdict(list)

    def add(self, version: int, digest: str) -> None:
        """The trainer is at `version` now."""
        known = self._digests[version]
        if digest in known:
            known.remove(digest)
        known.append(digest)
        for old in [old for old in self._digests if old < version - VERSIONS_KEPT]:
            del self._digests[old]

    def is_current(self, version: int, digest: str) -> bool:
        """Whether a replica that serves `digest` as `version` serves what the trainer announced last."""
        return version in self._digests and self._digests[version][-1] == digest

    def missing(self, trajectories: tuple[Trajectory, ...]) -> int | None:
        """The newest version that sampled a token and has not been announced; None when there is none."""
        sampled = {span.version for trajectory in trajectories for span in trajectory.spans}
        return max((version for version in sampled if version not in self._digests), default=None)

    def check(self, trajectories: tuple[Trajectory, ...]) -> None:
        """Raises MalformedRecordError where a token was sampled by weights that the trainer never had."""
        for trajectory in trajectories:
            for index, span in enumerate(trajectory.spans):
                if span.digest not in self._digests.get(span.version, ()):
                    raise MalformedRecordError(
                        f"trajectory.spans[{index}].digest",
                        f"the replica sampled with {span.digest or 'unnamed weights'} as version {span.version}, the "
                        f"trainer announced {' or '.join(self._digests.get(span.version, ())) or 'no such version'}",
                    )
