"""Logging of every service: one line a record, to standard error, UTC, with the service's name.

Control characters in a message or a field are escaped and both are cut at a length, because a peer's words may stand in
them. Passwords of Redis URLs are masked. Only a traceback has several lines. A line that is written while a group is
worked on (`ais.runtime.tracing.correlation`) has its id as the field `group`.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Literal

from ais.runtime.network.redis_url import without_passwords
from ais.runtime.settings import Section
from ais.runtime.text import escaped, printable
from ais.runtime.tracing.correlation import current_group

LONGEST_MESSAGE = 4_000
"""Characters of one message."""
LONGEST_FIELD = 1_000
"""Characters of one extra field."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "vllm_process_name"}
"""Attributes of a record that are not extra fields. (vLLM adds its process name to every record, whoever logs.)"""


class LoggingSettings(Section):
    """How services log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is written."""
    format: Literal["text", "json"] = "text"
    """text for people, json (one object a line) for log collectors."""


class _Formatter(logging.Formatter):
    def __init__(self, service: str, as_json: bool) -> None:
        super().__init__()
        self._service = service
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        group = {"group": current_group()} if current_group() else {}
        extra = group | {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        message = printable(without_passwords(record.getMessage()), LONGEST_MESSAGE)
        traceback = ""
        if record.exc_info:
            traceback = "\n" + escaped(without_passwords(self.formatException(record.exc_info)), keep="\n")
        if self._as_json:
            text = message + traceback
            fields = {"time": when, "level": record.levelname, "service": self._service, "message": text}
            return json.dumps(fields | {key: _bounded(value) for key, value in extra.items()}, default=str)
        shown = {key: printable(without_passwords(str(value)), LONGEST_FIELD) for key, value in extra.items()}
        pairs = "".join(f" {key}={value}" for key, value in shown.items())
        return f"{when} {record.levelname:7} {self._service}: {message}{pairs}{traceback}"


def _bounded(value: object) -> object:
    """`value` itself where its JSON is short; JSON escapes control characters by itself."""
    if isinstance(value, str):
        return printable(without_passwords(value), LONGEST_FIELD)
    text = json.dumps(value, default=str)
    if (shown := printable(without_passwords(text), LONGEST_FIELD)) == text:
        return value
    return shown


def configure_logging(service: str, settings: LoggingSettings) -> None:
    """Call once, first thing in a service's main. Extra fields: `logger.info("text", extra={"version": 3})`."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(service, settings.format == "json"))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
