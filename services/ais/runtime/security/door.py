"""The one place where a caller is judged, over HTTP and gRPC alike."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from ais.runtime.network.addresses import is_loopback
from ais.runtime.security.certificates import Certificates
from ais.runtime.security.refusals import Refusal, tell
from ais.runtime.security.roles import Allowed, Role
from ais.runtime.security.tokens import TokenFile

HEADER = "authorization"
LONGEST_HEADER = 1024


class Door:
    """Lets callers in by their tokens."""

    def __init__(self, files: Mapping[Role, TokenFile] | None, certificates: Certificates | None = None) -> None:
        """`files`: what each role's tokens are; None: whoever comes may enter. `certificates`: what the listener shows,
        and whose authority its callers' must be of; None: it speaks plainly."""
        self._files = files
        self.certificates = certificates

    def refusal(self, header: str | None, allowed: Allowed) -> Refusal | None:
        """Why the caller with this `Authorization` header may not enter; None: he may."""
        if allowed is None or self._files is None:
            return None
        roles = self._roles(header)
        if roles & allowed:
            return None
        refusal = Refusal.WRONG_ROLE if roles else Refusal.WRONG_TOKEN if header else Refusal.NO_TOKEN
        tell(refusal)
        return refusal

    def knows(self, header: str | None) -> bool:
        """Whether the header is that of any role."""
        return self._files is None or bool(self._roles(header))

    def _roles(self, header: str | None) -> frozenset[Role]:
        scheme, _, token = (header or "")[:LONGEST_HEADER].partition(" ")
        if scheme.lower() != "bearer" or self._files is None:
            return frozenset()
        presented = token.strip().encode(errors="replace")
        # Every token is compared, each in constant time: how long it takes says nothing about which one is near.
        equal = {
            role: [hmac.compare_digest(presented, valid) for valid in file.tokens()]
            for role, file in self._files.items()
        }
        return frozenset(role for role, one in equal.items() if True in one)


def refuse_without_door(host: str, door: Door | None) -> None:
    """Raises ValueError for a listener without a door that more than this machine reaches: a fault of the program."""
    if door is None and not is_loopback(host):
        raise ValueError(f"a listener on {host!r} needs a door")
