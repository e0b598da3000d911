"""Why callers are turned away: counted for whoever looks at a service, and told in its log once a reason."""

from __future__ import annotations

import logging
from enum import StrEnum

from ais.runtime.metrics.meter import Meter

logger = logging.getLogger(__name__)


class Refusal(StrEnum):
    """Why a caller is turned away. He is told only whether a token was accepted."""

    NO_TOKEN = "no_token"
    WRONG_TOKEN = "wrong_token"
    WRONG_ROLE = "wrong_role"
    NO_TLS = "no_tls"
    """He does not speak it, or not ours."""
    NO_CERTIFICATE = "no_certificate"
    WRONG_CERTIFICATE = "wrong_certificate"
    """It has expired, or another authority has signed it."""

    @property
    def told(self) -> str:
        """All that the caller is told."""
        return "forbidden" if self is Refusal.WRONG_ROLE else "unauthenticated"


METER = Meter(None)
REFUSED = METER.counter(  # every service's registry has it: ais.runtime.metrics.registry
    "ais_refused_callers",
    "Calls that were refused before they were looked at, by the reason.",
    "A service with other tokens or certificates, or a stranger: docs/security.md says who needs which.",
    {"reason": [refusal.value for refusal in Refusal]},
)

_logged: set[Refusal] = set()


def tell(refusal: Refusal) -> None:
    """Counts a caller who is turned away."""
    REFUSED.labels(refusal).inc()
    if refusal not in _logged:
        _logged.add(refusal)
        logger.warning("a caller is refused: %s (further ones are only counted, in ais_refused_callers)", refusal)
