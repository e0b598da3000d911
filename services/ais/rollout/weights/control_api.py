"""The control API: weights over HTTP, beside health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from ais.contracts.weights.offer import (
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
from ais.runtime.tracing.spans import TRACEPARENT, span

_REFUSALS: dict[int | str, dict[str, object]] = {
    status: {"model": WeightsRefused} for status in (404, 408, 409, 411, 413, 415, 422, 503)
}
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

    @app.get("/v1/weights")
    async def weights() -> WeightsStatus:
        return intake.status()

    @app.put("/v1/weights/{version}", responses=_REFUSALS | {202: {"model": Missing}})
    async def offer(version: Version, request: Request, response: Response) -> WeightsStatus | Missing:
        offer = await _read_offer(request)
        if version != offer.version:
            raise WeightsRefusedError("version", f"expected that of the address, {version}, got {offer.version}")
        with span("offer weights", "server", _caller(request), version=version, encoding=offer.encoding) as told:
            answer = await intake.offer(offer)
            told.tell(missing=isinstance(answer, Missing))
        response.status_code = 202 if isinstance(answer, Missing) else 200
        return answer

    @app.put("/v1/weights/{version}/shards/{index}", responses=_REFUSALS, status_code=202)
    async def shard(
        request: Request,
        version: Version,
        index: Annotated[int, Path(ge=0)],
        digest: Annotated[str, Header(alias=DIGEST_HEADER)] = "",
        offset: Annotated[int, Header(alias=OFFSET_HEADER, ge=0)] = 0,
        content_length: Annotated[int | None, Header()] = None,
    ) -> Missing:
        try:
            with span("receive weights", "server", _caller(request), version=version, shard=index, offset=offset):
                return await intake.receive(version, index, digest, offset, content_length, request.stream())
        except ClientDisconnect:
            raise WeightsRefusedError("body", "the connection was cut; what came is kept", 408) from None

    return app


def _caller(request: Request) -> str:
    return request.headers.get(TRACEPARENT, "")


async def _read_offer(request: Request) -> Offer:
    """No more of it than an offer may have is ever in memory. Raises WeightsRefusedError."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > OFFER_BYTES:
            raise WeightsRefusedError("length", f"expected an offer of at most {OFFER_BYTES} bytes, got more", 413)
    return decode_offer(bytes(body))


def decode_offer(body: bytes) -> Offer:
    """Raises WeightsRefusedError with the field and the reason."""
    try:
        return Offer.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "offer"
        raise WeightsRefusedError(field, first["msg"]) from None
