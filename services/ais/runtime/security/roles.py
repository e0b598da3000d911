"""Who may do what. What is not named here is refused to everybody but the most trusted."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a token stands for."""

    COLLECTOR = "collector"
    """Samples responses."""
    TRAINER = "trainer"
    """Replaces the policy; a replica that passes a version on does so in the trainer's name."""
    METRICS = "metrics"
    """Looks on: Prometheus, a person."""
    AGENT = "agent"
    """Plays episodes elsewhere than on the collector's machine."""


Allowed = frozenset[Role] | None
"""Roles that may do something; None: everybody, without a token."""

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
OPEN_SERVICE = "grpc.health.v1.Health"
EPISODES = "/episodes/"
"""Begins paths of episodes."""


def may_request(method: str, path: str) -> Allowed:
    """Who may make an HTTP request, to a path that exists or not."""
    if path in OPEN_PATHS:
        return None
    if method not in ("GET", "HEAD"):
        return frozenset({Role.TRAINER})
    return frozenset({Role.METRICS, Role.TRAINER} if path.startswith("/v1/") else {Role.METRICS})


def may_play(method: str, path: str) -> Allowed:  # noqa: ARG001
    """Who may make a request where agents get episodes. An episode's own calls come with its key instead, which the
    application asks for."""
    return None if path.startswith(EPISODES) else frozenset({Role.AGENT})


def may_call(method: str) -> Allowed:
    """Who may make a gRPC call of `/package.Service/Method`."""
    return None if method.startswith(f"/{OPEN_SERVICE}/") else frozenset({Role.COLLECTOR})
