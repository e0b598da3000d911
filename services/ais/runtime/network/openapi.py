"""What the OpenAPI of a service says beyond what FastAPI finds in its routes. Tests hold every answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Responses = dict[int | str, dict[str, Any]]

TOKEN = Depends(HTTPBearer(auto_error=False))
"""Dependency of a route that needs a token. It checks nothing: the door has, before the route is reached."""


class Refused(BaseModel):
    """Why a request is not answered."""

    detail: str


NOT_LET_IN: Responses = {
    401: {"model": Refused, "description": "no token, or a wrong one"},
    403: {"model": Refused, "description": "the token of another role"},
}
"""What the door answers (`ais.runtime.security.http_door`)."""


def describe_bodies(app: FastAPI, bodies: Mapping[tuple[str, str], type[BaseModel]]) -> None:
    """Puts the JSON bodies that routes read by themselves, by method and path, into what `app` says of itself."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = generated()
            references, definitions = models_json_schema(
                [(model, "validation") for model in bodies.values()], ref_template="#/components/schemas/{model}"
            )
            described["components"]["schemas"].update(definitions["$defs"])
            for (method, path), model in bodies.items():
                content = {"application/json": {"schema": references[model, "validation"]}}
                described["paths"][path][method.lower()]["requestBody"] = {"required": True, "content": content}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation extends it
