"""JSON answers: whether a schema accepts them, and whether they say what was expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import JsonSchema

_NOTHING = object()


def json_schema(settings: JsonSchema) -> Verifier:
    """1 if the extracted answer is JSON that the schema accepts, and that equals the answer where that is asked for.

    No schema is ever fetched. Raises TaskError for a schema that is none, or a library that is not installed; when it
    judges, ValueError for a prompt whose metadata has no `schema` where it should.
    """
    try:
        import jsonschema
        from referencing import Registry
    except ImportError as error:
        raise TaskError(
            f"the verifier json_schema needs the library jsonschema ({error}): pip install 'ais-rl[rewards]'"
        ) from error

    def opened(schema: Any) -> Any:
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
        return kind(schema, registry=Registry())  # an empty registry: the default one fetches references

    try:
        fixed = opened(settings.json_schema) if settings.json_schema else None
    except jsonschema.SchemaError as error:
        raise TaskError(f"json_schema is no JSON schema: {error.message}") from error

    def verify(response: Response, prompt: Prompt) -> float:
        validator = fixed or opened(_schema_of(prompt))
        text = extracted(response.text, settings.extract)
        value = _NOTHING if text is None else parsed(text)
        if value is _NOTHING or not _accepts(validator, value):
            return 0.0
        return float(not settings.equal or _same(value, json.loads(prompt.answer)))

    return verify


def parsed(text: str) -> Any:
    """The JSON value that `text` is, a fence around it aside; `_NOTHING` for what is none, has a key twice or a number
    beyond float64, or is nested beyond reason."""
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return _NOTHING


def _accepts(validator: Any, value: Any) -> bool:
    """Whether the schema accepts the value. One too deep or too large to be looked at is not accepted."""
    try:
        return bool(validator.is_valid(value))
    except (OverflowError, RecursionError):
        return False


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _distinct(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that can be held")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _schema_of(prompt: Prompt) -> Any:
    schema = prompt.metadata.get("schema")
    if not isinstance(schema, dict):
        raise ValueError(f"prompt {prompt.prompt_id} has no `schema` in its metadata, and json_schema is empty")
    return schema
