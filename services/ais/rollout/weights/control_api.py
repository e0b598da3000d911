"""The control API: weights over HTTP, beside health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Header, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from ais.contracts.weights.offer import (
    CONTENT_TYPE,
    DIGEST_HEADER,
    LARGEST_NUMBER,
    OFFER_BYTES,
    OFFSET_HEADER,
    Missing,
    Offer,
    WeightsStatus,
)
from ais.contracts.weights.refusal import WeightsRefused, WeightsRefusedError
from ais.rollout.weights.intake import WeightIntake
from ais.runtime.network.http import application
from ais.runtime.network.http_limits import STALLED_SECONDS
from ais.runtime.network.openapi import NOT_LET_IN, TOKEN, Responses, describe_bodies
from ais.runtime.tracing.spans import TRACEPARENT, span


def _refusals(*statuses: int) -> Responses:
    return NOT_LET_IN | {status: {"model": WeightsRefused} for status in statuses}


_MISSING: Responses = {202: {"model": Missing, "description": "taken: these bytes are missing"}}
_BYTES = {"requestBody": {"required": True, "content": {CONTENT_TYPE: {}}}}
Version = Annotated[int, Path(ge=0, le=LARGEST_NUMBER)]


def control_application(
    registry: CollectorRegistry, not_ready: Callable[[], str | None], intake: WeightIntake
) -> FastAPI:
    """Health, readiness, metrics and `/v1/weights`, whose answers are those of `ais.contracts.weights.offer`."""
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

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body") or "offer"
        return await refused(request, WeightsRefusedError(field, first["msg"]))

    @app.get("/v1/weights", dependencies=[TOKEN], responses=NOT_LET_IN)
    async def weights() -> WeightsStatus:
        return intake.status()

    @app.put(
        "/v1/weights/{version}",
        dependencies=[TOKEN],
        response_model=WeightsStatus,
        responses=_refusals(408, 409, 413, 415, 422, 503) | _MISSING,
    )
    async def offer(version: Version, request: Request) -> WeightsStatus | JSONResponse:
        offer = await _read_offer(request)
        if version != offer.version:
            raise WeightsRefusedError("version", f"expected that of the address, {version}, got {offer.version}")
        with span("offer weights", "server", _caller(request), version=version, encoding=offer.encoding) as told:
            answer = await intake.offer(offer)
            told.tell(missing=isinstance(answer, Missing))
        return JSONResponse(answer.model_dump(), 202) if isinstance(answer, Missing) else answer

    @app.put(
        "/v1/weights/{version}/shards/{index}",
        dependencies=[TOKEN],
        status_code=202,
        responses=_refusals(404, 408, 409, 411, 422, 503),
        openapi_extra=_BYTES,
    )
    async def shard(
        request: Request,
        version: Version,
        index: Annotated[int, Path(ge=0)],
        digest: Annotated[str, Header(alias=DIGEST_HEADER)] = "",
        offset: Annotated[int, Header(alias=OFFSET_HEADER, ge=0)] = 0,
        content_length: Annotated[int | None, Header(include_in_schema=False)] = None,
    ) -> Missing:
        try:
            with span("receive weights", "server", _caller(request), version=version, shard=index, offset=offset):
                return await intake.receive(version, index, digest, offset, content_length, request.stream())
        except ClientDisconnect:
            raise WeightsRefusedError("body", "the connection was cut; what came is kept", 408) from None

    describe_bodies(app, {("PUT", "/v1/weights/{version}"): Offer})
    return app


def _caller(request: Request) -> str:
    return request.headers.get(TRACEPARENT, "")


async def _read_offer(request: Request) -> Offer:
    """No more of it than an offer may have is ever in memory, and it has its time. Raises WeightsRefusedError."""
    too_large = WeightsRefusedError("length", f"expected an offer of at most {OFFER_BYTES} bytes, got more", 413)
    if int(request.headers.get("content-length", 0)) > OFFER_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > OFFER_BYTES:
                    raise too_large
    except (TimeoutError, ClientDisconnect):
        reason = f"expected an offer within {STALLED_SECONDS:g} s, got {len(body)} bytes"
        raise WeightsRefusedError("body", reason, 408) from None
    return decode_offer(bytes(body))


def decode_offer(body: bytes) -> Offer:
    """Raises WeightsRefusedError with the field and the reason."""
    try:
        return Offer.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "offer"
        raise WeightsRefusedError(field, first["msg"]) from None
