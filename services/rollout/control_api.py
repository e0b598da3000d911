"""The control API: weights over HTTP, beside health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Header, Path, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from services.contracts.weights import DIGEST_HEADER, ENCODING_HEADER, WeightsRefused, WeightsStatus
from services.rollout.intake import WeightIntake, WeightsRefusedError
from services.runtime.http import application

_REFUSALS: dict[int | str, dict[str, object]] = {
    status: {"model": WeightsRefused} for status in (408, 409, 411, 413, 415, 422, 503)
}


def control_application(
    registry: CollectorRegistry, not_ready: Callable[[], str | None], intake: WeightIntake
) -> FastAPI:
    """Health, readiness, metrics and `/v1/weights`, whose answers are those of `services.contracts.weights`."""
    app = application("AIS rollout replica", registry, not_ready)

    @app.exception_handler(WeightsRefusedError)
    async def refused(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, WeightsRefusedError)
        answer = WeightsRefused(
            field=error.field,
            reason=error.reason,
            serving_version=intake.status().version,
            probe_gap=error.probe_gap,
        )
        return JSONResponse(answer.model_dump(), status_code=error.status)

    @app.get("/v1/weights")
    async def weights() -> WeightsStatus:
        return intake.status()

    @app.put("/v1/weights/{version}", responses=_REFUSALS)
    async def push(
        request: Request,
        version: Annotated[int, Path(ge=0)],
        encoding: Annotated[str, Header(alias=ENCODING_HEADER)] = "",
        digest: Annotated[str, Header(alias=DIGEST_HEADER)] = "",
        content_length: Annotated[int | None, Header()] = None,
    ) -> WeightsStatus:
        return await intake.receive(version, encoding, digest, content_length, request.stream())

    return app
