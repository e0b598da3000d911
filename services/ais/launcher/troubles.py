"""Which of the services' warnings a person is shown: each kind when it first comes, then a count now and then. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

from ais.runtime.text import printable

QUIET_SECONDS = 60.0
"""A kind of warning that goes on is shown again after this time, with how often it came."""
KINDS = 500
"""Kinds remembered; beyond that the oldest is forgotten."""
LONGEST = 300
"""Characters of a warning that are shown."""

_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+(?:\.\d+)?")
_KIND_LENGTH = 80


@dataclass
class _Kind:
    shown_at: float
    held_back: int = 0


class Troubles:
    """Warnings and errors of all processes of a run."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def heard(self, process: str, message: str, now: float) -> str | None:
        """What to show of a warning that came `now` (seconds of a monotonic clock); None: nothing this time.

        Warnings are of one kind when the same service begins them with the same words, numbers aside.
        """
        service = process.rpartition("-")[0] if process[-1:].isdigit() else process
        key = service, _VARYING.sub("#", message)[:_KIND_LENGTH]
        kind = self._kinds.get(key)
        text = f"{process}: {printable(message, LONGEST)}"
        if kind is None:
            self._kinds[key] = _Kind(now)
            if len(self._kinds) > KINDS:
                self._kinds.popitem(last=False)
            return text
        if now - kind.shown_at < QUIET_SECONDS:
            kind.held_back += 1
            return None
        more = f" ({kind.held_back} more like it in {now - kind.shown_at:.0f} s)" if kind.held_back else ""
        self._kinds[key] = _Kind(now)
        self._kinds.move_to_end(key)
        return text + more
