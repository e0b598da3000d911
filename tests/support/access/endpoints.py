"""Every endpoint of every service, and who may use it."""

from __future__ import annotations

from ais.runtime.security.roles import Allowed, Role

C, T, M = Role.COLLECTOR, Role.TRAINER, Role.METRICS

HTTP: dict[tuple[str, str], Allowed] = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): frozenset({M}),
    ("GET", "/openapi.json"): frozenset({M}),
    ("GET", "/v1/weights"): frozenset({M, T}),
    ("PUT", "/v1/weights/{version}"): frozenset({T}),
    ("PUT", "/v1/weights/{version}/shards/{index}"): frozenset({T}),
}
GRPC: dict[str, Allowed] = {
    "/ais.v1.Rollout/Generate": frozenset({C}),
    "/ais.v1.Rollout/Stream": frozenset({C}),
    "/ais.v1.Rollout/Describe": frozenset({C}),
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset({C}),
}
