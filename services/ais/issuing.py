"""What `ais secrets` does: the tokens and passwords of a deployment, a directory for each service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ais.contracts.keys import Keys
from ais.runtime.files import replace_file
from ais.runtime.network.redis import RIGHTS
from ais.runtime.process import UnavailableError
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import TokenFile, new_token, token_path

PASSWORD = "redis.password"
"""A service's password of Redis, in its directory; its user has its name."""
ACL = Path("redis", "users.acl")
"""For `aclfile` of Redis 7 or Valkey: the users, with digests of their passwords."""

FOR_GROUP = 0o640
"""Redis and Prometheus run as users of their own: in containers they are of this group."""

_RUN = Keys("*")


@dataclass(frozen=True)
class Holder:
    """What a service needs."""

    roles: tuple[Role, ...] = ()
    """Tokens that it presents, or asks others for."""
    keys: tuple[str, ...] = ()
    """What of Redis it may use, as patterns of an ACL; `%R~` may be read."""


HOLDERS = {
    "collector": Holder((Role.COLLECTOR, Role.METRICS), ("~ais:*",)),
    "trainer": Holder((Role.TRAINER, Role.METRICS), ("~ais:*",)),
    "rollout": Holder(
        tuple(Role),
        (f"~{_RUN.replicas}", f"~{_RUN.replica('*')}", f"%R~{_RUN.identity}", f"%R~{_RUN.incarnation}"),
    ),
    "evaluation": Holder((), ("~ais:*-evaluation-*",)),  # its replicas are on loopback: the run's own tokens
    "prometheus": Holder((Role.METRICS,)),
}


def issue(directory: Path) -> Iterator[Path]:
    """Makes what is missing and gives its paths; what is there stays as it is, but for the ACL, which follows the
    passwords. Directories that are made are closed to other users.

    Raises UnavailableError when a file cannot be written, SettingsError when one that is there cannot be used.
    """
    tokens = {role: _there(directory, role) or new_token() for role in Role}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for service, holder in HOLDERS.items():
            contents = {token_path(directory / service, role): tokens[role] for role in holder.roles}
            if holder.keys:
                contents[directory / service / PASSWORD] = new_token()
            for path, content in contents.items():
                if not path.exists():
                    yield _written(path, content)
                TokenFile(path)
        if not (directory / ACL).is_file() or (directory / ACL).read_text(encoding="utf-8") != _acl(directory):
            yield _written(directory / ACL, _acl(directory))
    except OSError as error:
        raise UnavailableError(f"{error.filename or directory} cannot be written: {error.strerror}") from error


def _there(directory: Path, role: Role) -> str | None:
    """The tokens of a role, as a service has them already."""
    for service in HOLDERS:
        if (path := token_path(directory / service, role)).is_file():
            return "".join(f"{token.decode()}\n" for token in TokenFile(path).tokens())
    return None


def _written(path: Path, content: str) -> Path:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, content, FOR_GROUP)
    return path


def _acl(directory: Path) -> str:
    """One user for each service. Strangers may ask whether the server lives."""
    lines = ["user default on nopass -@all +ping\n"]
    for service, holder in HOLDERS.items():
        if holder.keys:
            passwords = TokenFile(directory / service / PASSWORD).tokens()
            digests = (f"#{hashlib.sha256(password).hexdigest()}" for password in passwords)
            lines.append(f"user {service} on {' '.join(digests)} {' '.join(holder.keys)} {RIGHTS}\n")
    return "".join(lines)
