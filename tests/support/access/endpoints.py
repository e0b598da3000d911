"""Every endpoint of every service, and who may use it."""

from __future__ import annotations

from ais.runtime.security.roles import Allowed, Role

A, C, T, M = Role.AGENT, Role.COLLECTOR, Role.TRAINER, Role.METRICS
NO_ROLE: Allowed = frozenset()

HTTP: dict[tuple[str, str], Allowed] = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): frozenset({M}),
    ("GET", "/openapi.json"): frozenset({M}),
    ("GET", "/v1/weights"): frozenset({M, T}),
    ("PUT", "/v1/weights/{version}"): frozenset({T}),
    ("PUT", "/v1/weights/{version}/shards/{index}"): frozenset({T}),
}
EPISODES: dict[tuple[str, str], Allowed] = {
    ("POST", "/v1/episodes"): frozenset({A}),
    ("GET", "/episodes/{name}/v1/models"): NO_ROLE,
    ("POST", "/episodes/{name}/v1/chat/completions"): NO_ROLE,
    ("POST", "/episodes/{name}/v1/completions"): NO_ROLE,
    ("POST", "/episodes/{name}/v1/end"): NO_ROLE,
}
"""Where agents play: an episode's own key opens what no role does."""
GRPC: dict[str, Allowed] = {
    "/ais.v1.Rollout/Generate": frozenset({C}),
    "/ais.v1.Rollout/Stream": frozenset({C}),
    "/ais.v1.Rollout/Describe": frozenset({C}),
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset({C}),
}
