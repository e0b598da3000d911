"""What every caller sends before anything is known of him: the address of a request, and his token."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.security.door import Door
from ais.runtime.security.roles import Role, may_call, may_request
from ais.runtime.security.tokens import TokenFile, token_path
from benchmarks.fuzz.target import Target, Targets

_TEMPORARY = tempfile.TemporaryDirectory(prefix="ais-fuzz-")


def _door() -> Door:
    files = {}
    for role in Role:
        file = token_path(Path(_TEMPORARY.name), role)
        replace_file(file, f"the-token-of-{role.value}\n", FOR_OWNER)
        files[role] = TokenFile(file)
    return Door(files)


DOOR = _door()


def read_caller(content: bytes) -> None:
    """METHOD, PATH and header, one a line. Nobody enters but by a token."""
    method, path, header = [*content.decode("latin-1").split("\n", 2), "", ""][:3]
    for allowed in (may_request(method, path), may_call(path)):
        if DOOR.refusal(header, allowed) is None:
            assert allowed is None or any(f"the-token-of-{role.value}" in header for role in allowed)


TARGETS: Targets = {
    "caller": Target(
        read_caller,
        (),
        (
            b"GET\n/metrics\nBearer the-token-of-metrics",
            b"PUT\n/v1/weights/7\nBearer the-token-of-trainer",
            b"POST\n/ais.v1.Rollout/Generate\nbearer  the-token-of-collector",
        ),
    ),
}
