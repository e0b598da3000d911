"""How a replica that is about to leave tells its callers.

It ends a call that it will not take, or cannot finish in time, with UNAVAILABLE and this key in the trailing metadata.
A broken replica does not send it, so a caller that finds it counts the call neither against the replica nor the group.
"""

from __future__ import annotations

from collections.abc import Iterable

HANDED_BACK = ("ais-handed-back", "draining")
"""Key and value in the trailing metadata."""


def is_handed_back(trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether the call was handed back by a replica that leaves."""
    return any(key == HANDED_BACK[0] for key, _value in trailing_metadata or ())
