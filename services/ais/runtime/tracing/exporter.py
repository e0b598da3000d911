"""Sends a process's spans to an OpenTelemetry collector (OTLP over HTTP), where the environment names one.

The environment variables are OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT switches traces on, the official packages
read the others. Spans wait in a bounded queue for a thread of their own; what a collector that is away or slow does not
take in time is dropped and counted, and never waited for.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ais.runtime.settings import SettingsError
from ais.runtime.text import printable
from ais.runtime.tracing.spans import trace_with

if TYPE_CHECKING:
    from ais.runtime.tracing.batches import Batches

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Which collector, the first that is set. None: traces are off."""
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
FLUSH_SECONDS = 3.0
"""How long a process that ends waits for its last spans to be taken."""

logger = logging.getLogger(__name__)


@contextmanager
def traces(service: str) -> Iterator[None]:
    """Spans are sent while the context is open, and those left at its end, within `FLUSH_SECONDS`.

    Raises SettingsError where the environment asks for what cannot be: packages that are not installed, an address that
    is none, another protocol.
    """
    endpoint = wanted(os.environ)
    if not endpoint:
        yield
        return
    batches = _opened(service)
    logger.info("traces are sent", extra={"to": urlsplit(endpoint).hostname})
    try:
        yield
    finally:
        trace_with(None)
        _flush(batches)


def check_traces() -> None:
    """Before a run has a directory: raises SettingsError for packages that are missing and an address that is none."""
    if wanted(os.environ):
        _packages()


def wanted(environment: Mapping[str, str]) -> str:
    """The collector that the environment names; empty: none, or traces are switched off. Raises SettingsError."""
    name = next((name for name in ENDPOINTS if environment.get(name, "").strip()), "")
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not name or off or environment.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return ""
    endpoint = environment[name].strip()
    if not _is_address(endpoint):  # which is not repeated: a password may stand in it
        raise SettingsError(f"{name}: expected http://HOST:4318, or https://..., got something else")
    for variable in PROTOCOLS:
        if (protocol := environment.get(variable, "").strip() or PROTOCOL) != PROTOCOL:
            raise SettingsError(
                f"{variable}: traces are sent by {PROTOCOL} alone, got {printable(protocol, 50)!r}. Leave it out, and "
                f"name the collector's HTTP port, 4318 by custom, in {name}"
            )
    return endpoint


def _is_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _packages() -> type[Batches]:
    try:
        from ais.runtime.tracing.batches import Batches
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{' or '.join(ENDPOINTS)} asks for traces, and {error.name} is not installed: pip install "
            "'ais-rl[traces]', or leave the variable out"
        ) from error
    return Batches


def _opened(service: str) -> Batches:
    batches_of = _packages()
    try:
        batches = batches_of(service)
    except ValueError as error:
        raise SettingsError(f"traces cannot be sent as the OTEL_ variables say: {printable(str(error))}") from error
    trace_with(batches.tracer)
    return batches


def _flush(batches: Batches) -> None:
    """In a thread that the process does not wait for longer: a collector that is away would hold it for a minute."""
    closing = threading.Thread(target=batches.close, name="last spans", daemon=True)
    closing.start()
    closing.join(FLUSH_SECONDS)
    if left := batches.waiting:
        logger.warning("%d spans are lost: no collector took them within %.0f s", left, FLUSH_SECONDS)
