"""Logging of every service: one line a record, to standard error, UTC, with the service's name."""

from __future__ import annotations

import json
import logging
import time
from typing import Literal

from ais.runtime.settings import Section

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "vllm_process_name"}
"""What is no extra field of ours. (vLLM puts its name of the process on every record, whoever logs.)"""


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
        extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        if self._as_json:
            fields = {"time": when, "level": record.levelname, "service": self._service, "message": message, **extra}
            return json.dumps(fields, default=str)
        pairs = "".join(f" {key}={value}" for key, value in extra.items())
        return f"{when} {record.levelname:7} {self._service}: {message}{pairs}"


def configure_logging(service: str, settings: LoggingSettings) -> None:
    """Call once, first thing in a service's main. Extra fields: `logger.info("text", extra={"version": 3})`."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(service, settings.format == "json"))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
