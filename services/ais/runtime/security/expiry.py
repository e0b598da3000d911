"""When certificates expire, as a metric."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from weakref import WeakKeyDictionary

from ais.runtime.metrics.meter import Meter
from ais.runtime.metrics.replaced_gauge import ReplacedGauge

METER = Meter(None)
EXPIRY = METER.gauge(  # every service's registry has it: ais.runtime.metrics.registry
    "ais_certificate_not_after_timestamp_seconds",
    "When a certificate that this process presents or trusts expires, in Unix time, by the name in it. The first to "
    "expire counts where several have one name, as two authorities have while one takes over from the other.",
    "Less than a fortnight away: `ais secrets DIR --renew 30`. Services read new files without a restart.",
    {"subject": ()},
)
_SHOWN = ReplacedGauge(EXPIRY)

_ends: WeakKeyDictionary[object, Mapping[str, float]] = WeakKeyDictionary()
"""By who holds the certificates: those of the services and those for Redis may be others."""
_lock = Lock()  # gRPC asks for certificates from threads of its own


def show_expiry(holder: object, ends: Mapping[str, float]) -> None:
    """`ends`: Unix times by subject, of all the certificates that `holder` has now. What it had before is forgotten."""
    with _lock:
        _ends[holder] = ends
        _SHOWN.show(_first_of_each())


def _first_of_each() -> dict[tuple[str, ...], float]:
    first: dict[tuple[str, ...], float] = {}
    for held in _ends.values():
        for subject, end in held.items():
            first[subject,] = min(end, first.get((subject,), end))
    return first
