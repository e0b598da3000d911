"""The alerts that a Prometheus has of its rules, as the page shows them. The console evaluates no rule itself."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from ais.runtime.text import printable

RULES = "Ais"
"""Names of the rules in `deploy/prometheus/rules` begin so; a Prometheus may have others' beside them."""
ASK_SECONDS = 5.0
"""Prometheus is asked so often at most, however many pages there are, and must have answered by then."""
LARGEST_ANSWER_BYTES = 4 * 1024 * 1024
LARGEST_TOKEN_BYTES = 64 * 1024
MOST_ALERTS = 200

Text = Annotated[str, StringConstraints(max_length=16_384)]
Answer = dict[str, Any]


class PrometheusAddressError(ValueError):
    """What was given as a Prometheus is none that could be asked."""


class _Alert(BaseModel):
    labels: Annotated[dict[Text, Text], Field(max_length=100)]
    annotations: Annotated[dict[Text, Text], Field(max_length=100)] = {}
    state: Text
    active_at: Annotated[datetime | None, Field(validation_alias="activeAt")] = None


class _Data(BaseModel):
    alerts: list[_Alert]


class _Body(BaseModel):
    data: _Data


@dataclass(frozen=True)
class Prometheus:
    """Where the alerts are asked for. Raises PrometheusAddressError."""

    url: str
    """Its address, with the path before `/api`, if it has one."""
    token: Path | None = None
    """File with a bearer token, read for each question: tokens change."""
    authority: Path | None = None
    """File with the certificates that its own is signed by; None: those of the system."""

    def __post_init__(self) -> None:
        expected = "expected the address of a Prometheus, such as http://127.0.0.1:9090"
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise PrometheusAddressError(f"{expected}: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise PrometheusAddressError(f"{expected}, got {printable(self.url, 100)}")
        if parts.username is not None or parts.password is not None:
            raise PrometheusAddressError("the address of a Prometheus has no password in it: --prometheus-token FILE")
        for file in (self.token, self.authority):
            if file is not None and not file.is_file():
                raise PrometheusAddressError(f"expected a file, got {file}")


class Alerts:
    """What a Prometheus says, asked again when somebody wants to know and the last answer is old."""

    def __init__(self, prometheus: Prometheus | None) -> None:
        self._prometheus = prometheus
        self._lock = Lock()
        self._asked = -ASK_SECONDS
        self._told: Answer = _answer(prometheus)

    def now(self) -> Answer:
        """`alerts`, the firing ones first; `prometheus`, whom they are of, null where there is none; `trouble`, why
        there is no answer."""
        with self._lock:
            if self._prometheus is not None and time.monotonic() - self._asked >= ASK_SECONDS:
                self._told = _asked(self._prometheus)
                self._asked = time.monotonic()
            return self._told


def _asked(prometheus: Prometheus) -> Answer:
    try:
        body = _Body.model_validate_json(_fetched(prometheus))
    except ValidationError:
        return _answer(prometheus, trouble="it answers something else than alerts: is it a Prometheus?")
    except httpx.TimeoutException:
        return _answer(prometheus, trouble=f"no answer in {ASK_SECONDS:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return _answer(prometheus, trouble=printable(str(error) or type(error).__name__))
    ours = [one for one in body.data.alerts if one.labels.get("alertname", "").startswith(RULES)]
    ours.sort(key=lambda one: (one.state != "firing", one.labels["alertname"]))
    return _answer(prometheus, alerts=list(map(_line, ours[:MOST_ALERTS])))


def _answer(prometheus: Prometheus | None, **more: Any) -> Answer:
    return {"prometheus": prometheus.url if prometheus else None, "alerts": [], "trouble": ""} | more


def _line(alert: _Alert) -> Mapping[str, Any]:
    about = {key: value for key, value in alert.labels.items() if key not in {"alertname", "severity"}}
    return {
        "name": printable(alert.labels["alertname"]),
        "state": printable(alert.state),
        "severity": printable(alert.labels.get("severity", "")),
        "since": alert.active_at.timestamp() if alert.active_at else None,
        "summary": printable(alert.annotations.get("summary", "")),
        "runbook": printable(alert.annotations.get("runbook_url", "")),
        "about": printable(", ".join(f"{key} {value}" for key, value in sorted(about.items()))),
    }


def _fetched(prometheus: Prometheus) -> bytes:
    """Raises httpx.HTTPError, OSError or ValueError."""
    deadline = time.monotonic() + ASK_SECONDS
    url = f"{prometheus.url.rstrip('/')}/api/v1/alerts"
    with (
        httpx.Client(timeout=ASK_SECONDS, verify=_trusted(prometheus.authority), trust_env=False) as client,
        client.stream("GET", url, headers=_headers(prometheus.token)) as answer,
    ):
        if answer.status_code != httpx.codes.OK:
            hint = ": give it a token by --prometheus-token FILE" if answer.status_code in {401, 403} else ""
            raise ValueError(f"it answers {answer.status_code}{hint}")
        content = bytearray()
        for piece in answer.iter_bytes():
            content += piece
            if len(content) > LARGEST_ANSWER_BYTES:
                raise ValueError(f"its answer has more than {LARGEST_ANSWER_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer does not end")
        return bytes(content)


def _trusted(authority: Path | None) -> ssl.SSLContext | bool:
    return True if authority is None else ssl.create_default_context(cafile=str(authority))


def _headers(token: Path | None) -> dict[str, str]:
    if token is None:
        return {}
    with token.open("rb") as file:
        return {"authorization": f"Bearer {file.read(LARGEST_TOKEN_BYTES).decode('ascii').strip()}"}
