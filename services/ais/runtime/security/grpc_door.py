"""The door of a gRPC server: an interceptor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from ais.runtime.security.door import HEADER, Door
from ais.runtime.security.refusals import Refusal
from ais.runtime.security.roles import may_call

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class GrpcDoor(grpc.aio.ServerInterceptor):
    """Ends a call that may not be made with UNAUTHENTICATED or PERMISSION_DENIED, without reading its request."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        metadata = {str(name): value for name, value in handler_call_details.invocation_metadata or ()}
        header = metadata.get(HEADER)
        text = header.decode(errors="replace") if isinstance(header, bytes) else header
        if refusal := self._door.refusal(text, may_call(handler_call_details.method)):
            return _refuses(refusal)
        return await continuation(handler_call_details)


def _refuses(refusal: Refusal) -> Handler:
    status = grpc.StatusCode
    code = status.PERMISSION_DENIED if refusal is Refusal.WRONG_ROLE else status.UNAUTHENTICATED

    async def refuse(_requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, refusal.told)

    return grpc.stream_stream_rpc_method_handler(refuse)  # it alone waits for no request; on the wire all are the same
