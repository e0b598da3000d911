"""Records of peers that nobody can use: skipped, counted, and logged once for each peer.

A second run, another release or a buggy process can write anything into what the services share. What it writes must
not end a service, and a peer that repeats it must not fill the log.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Literal, get_args

from ais.runtime.metrics.meter import Meter
from ais.runtime.text import printable

PEERS_REMEMBERED = 1_000
"""Peers whose fault has been logged; beyond that the oldest is forgotten, and may be logged again."""

Kind = Literal["event", "replica", "evaluation"]
"""What the record should have been: a trainer's event or a replica's record."""

METER = Meter(None)
STRAYS = METER.counter(  # every service's registry has it: ais.runtime.metrics.registry
    "ais_stray_records",
    "Records in Redis that were skipped because they could not be read or contradict what is known, by their kind.",
    "Something else writes into the run's keys, or services are of different releases: the log names the peer.",
    {"kind": get_args(Kind)},
)

logger = logging.getLogger(__name__)


class Strays:
    """Skips what one reader cannot use."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._logged: OrderedDict[str, None] = OrderedDict()

    def skip(self, peer: str | bytes, reason: str) -> None:
        """Counts one record of `peer`, and logs the first one with the reason."""
        STRAYS.labels(self._kind).inc()
        name = printable(peer, 100)
        if name in self._logged:
            self._logged.move_to_end(name)
            return
        self._logged[name] = None
        if len(self._logged) > PEERS_REMEMBERED:
            self._logged.popitem(last=False)
        logger.warning(
            "%s %s is skipped: %s (further ones are only counted, in ais_stray_records_total)",
            self._kind, name, printable(reason),
        )  # fmt: skip

    def forget(self, peer: str | bytes) -> None:
        """The peer's record is good again, or gone: its next fault is news."""
        self._logged.pop(printable(peer, 100), None)
