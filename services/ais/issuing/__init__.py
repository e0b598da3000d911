"""What `ais secrets` does: tokens, passwords and certificates of a deployment, a directory for each service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ais.contracts.keys import Keys
from ais.contracts.redis_commands import (
    Commands,
    collector_commands,
    exporter_commands,
    replica_commands,
    rights,
    trainer_commands,
)
from ais.issuing.authority import Authority, Issued, Use, ends_at
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.network.redis import SERVER
from ais.runtime.process import UnavailableError
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import TokenFile, new_token, token_path
from ais.runtime.settings import SettingsError

PASSWORD = "redis.password"
"""A service's password of Redis, in its directory; its user has its name."""
ACL = Path(SERVER, "users.acl")
"""For `aclfile` of Redis 7 or Valkey: the users, with digests of their passwords."""
EXPORTER = "redis-exporter"
PASSWORDS = Path(EXPORTER, "redis.passwords.json")
"""The exporter's password as it takes it, by the address that it asks."""
EXPORTED = f"rediss://{SERVER}:6379"

AUTHORITY_OF_ALL = "authority"
"""Directory of the certificate authority and its key: keep it where nobody gets at it."""

FOR_GROUP = 0o640
"""Redis and Prometheus run as users of their own: in containers they are of this group."""

_RUN = Keys("*")


@dataclass(frozen=True)
class Holder:
    """What a service needs."""

    uses: tuple[Use, ...]
    """What its certificate is for."""
    roles: tuple[Role, ...] = ()
    """Tokens that it presents, or asks others for."""
    keys: tuple[str, ...] = ()
    """What of Redis it may use, as patterns of an ACL; `%R~` may be read."""
    commands: Commands = field(default_factory=list)
    """What it may do with it. With none it is no user of Redis."""
    ours: bool = True
    """Whether it runs as the user who owns its directory. The others are in the group."""


BOTH = (Use.SERVER, Use.CLIENT)
_REGISTRY = (f"~{_RUN.replicas}", f"%R~{_RUN.replica('*')}")
_QUEUE = (f"~{_RUN.groups}", f"~{_RUN.accepted}", f"~{_RUN.position}", f"~{_RUN.evaluations}")
HOLDERS = {
    "collector": Holder(
        BOTH,
        (Role.COLLECTOR, Role.METRICS, Role.AGENT),
        (*_QUEUE, f"%R~{_RUN.events}", *_REGISTRY),
        collector_commands(_RUN),
    ),
    "trainer": Holder(
        BOTH,
        (Role.TRAINER, Role.METRICS),
        (*_QUEUE, f"~{_RUN.events}", f"~{_RUN.dead_letters}", f"~{_RUN.identity}", f"~{_RUN.incarnation}", *_REGISTRY),
        trainer_commands(_RUN),
    ),
    "rollout": Holder(
        BOTH,
        tuple(Role),
        (f"~{_RUN.replicas}", f"~{_RUN.replica('*')}", f"%R~{_RUN.identity}", f"%R~{_RUN.incarnation}"),
        replica_commands(_RUN),
    ),
    "agent": Holder((Use.CLIENT,), (Role.AGENT,)),
    # Its replicas are on loopback: the run's own tokens, and no TLS.
    "evaluation": Holder((Use.CLIENT,), (), ("~ais:*-evaluation-*",), replica_commands(_RUN)),
    "prometheus": Holder((Use.CLIENT,), (Role.METRICS,), ours=False),
    EXPORTER: Holder(BOTH, commands=exporter_commands(), ours=False),
    SERVER: Holder(BOTH, ours=False),  # a client too: its health check
}


def issue(directory: Path, renew: timedelta | None = None) -> Iterator[Path]:
    """Makes what is missing and gives its paths; what is there stays as it is, but for the ACL and the exporter's
    file, which follow the passwords, and certificates that end within `renew`. Directories that are made are closed to
    other users.

    Raises UnavailableError when a file cannot be written, SettingsError when one that is there cannot be used.
    """
    tokens = {role: _there(directory, role) or new_token() for role in Role}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for service, holder in HOLDERS.items():
            contents = {token_path(directory / service, role): _told(tokens[role], holder) for role in holder.roles}
            if holder.commands:
                contents[directory / service / PASSWORD] = new_token()
            for path, content in contents.items():
                if not path.exists():
                    yield _written(path, content)
                TokenFile(path)
        for path, content in ((ACL, _acl(directory)), (PASSWORDS, _passwords(directory))):
            if not (directory / path).is_file() or (directory / path).read_text(encoding="utf-8") != content:
                yield _written(directory / path, content)
        yield from _certify(directory, renew)
    except OSError as error:
        raise UnavailableError(f"{error.filename or directory} cannot be written: {error.strerror}") from error


def _there(directory: Path, role: Role) -> str | None:
    """The tokens of a role, as a service has them already."""
    for service in HOLDERS:
        if (path := token_path(directory / service, role)).is_file():
            return "".join(f"{token.decode()}\n" for token in TokenFile(path).tokens())
    return None


def _told(tokens: str, holder: Holder) -> str:
    """The tokens of a role for one who holds it. Prometheus presents its file as it is, and its operator does so with a
    newline at the end, which no header may have."""
    return tokens if holder.ours else tokens.split()[0]


def _certify(directory: Path, renew: timedelta | None) -> Iterator[Path]:
    """Certificates of one authority, whose key stays in a directory that no service needs."""
    due = [service for service in HOLDERS if _is_due(directory / service, renew)]
    if not due:
        return
    place = directory / AUTHORITY_OF_ALL
    if not (place / KEY).exists():
        if known := [service for service in HOLDERS if (directory / service / AUTHORITY).exists()]:
            raise SettingsError(
                f"{place} is not there, whose key has signed the certificate in {directory / known[0]}: put it back, "
                f"or remove {AUTHORITY}, {CERTIFICATE} and {KEY} of every service to begin with a new authority"
            )
        made = Authority.new().issued
        yield _written(place / AUTHORITY, made.certificate)
        yield _written(place / KEY, made.key, FOR_OWNER)  # last: without it both are made anew
    authority = _authority(place)
    # Whoever accepts a certificate of this authority accepts the next one. Another's may be replaced when all know it.
    renewed = all(_is_of(authority, directory / service) for service in due)
    for service in due if renewed else HOLDERS:
        _check_trusts(directory / service, authority, place)
    for service in due:
        own, holder = directory / service, HOLDERS[service]
        if not (own / AUTHORITY).exists():
            yield _written(own / AUTHORITY, authority.issued.certificate)
        issued = authority.issue(service, *holder.uses)
        # Who reads between the two keeps what he has: they do not belong together.
        yield _written(own / KEY, issued.key, FOR_OWNER if holder.ours else FOR_GROUP)
        yield _written(own / CERTIFICATE, issued.certificate)


def _is_due(own: Path, renew: timedelta | None) -> bool:
    """Whether a service needs a certificate. One that is there is not looked at unless it may be renewed."""
    if not all((own / name).exists() for name in (AUTHORITY, CERTIFICATE, KEY)):
        return True
    return renew is not None and _ends_within(own / CERTIFICATE, renew)


def _is_of(authority: Authority, own: Path) -> bool:
    """Whether a service has a certificate of the authority, or none yet."""
    certificate = own / CERTIFICATE
    return not certificate.exists() or authority.has_signed(certificate.read_text(encoding="utf-8"))


def _authority(place: Path) -> Authority:
    try:
        certificate, key = (place / AUTHORITY).read_text(encoding="utf-8"), (place / KEY).read_text(encoding="utf-8")
        return Authority(Issued(certificate, key))
    except ValueError as error:
        raise SettingsError(f"{place} has no authority that certificates can be made with: {error}") from None


def _check_trusts(own: Path, authority: Authority, place: Path) -> None:
    """Raises SettingsError for a service that would not accept the certificates that are to be made."""
    try:
        if not (own / AUTHORITY).exists() or authority.is_among((own / AUTHORITY).read_text(encoding="utf-8")):
            return
    except ValueError as error:
        raise SettingsError(f"{own / AUTHORITY} is no certificate: {error}") from None
    raise SettingsError(
        f"{own / AUTHORITY} does not have the authority in {place}, which would sign new certificates: nothing was "
        f"changed. Put back the authority that has signed the others; to change it, append {place / AUTHORITY} to "
        f"{AUTHORITY} of every service first"
    )


def _ends_within(certificate: Path, time: timedelta) -> bool:
    try:
        return ends_at(certificate.read_text(encoding="utf-8")) <= datetime.now(UTC) + time
    except ValueError as error:
        raise SettingsError(f"{certificate} is no certificate: {error}") from None


def _written(path: Path, content: str, mode: int = FOR_GROUP) -> Path:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, content, mode)
    return path


def _passwords(directory: Path) -> str:
    """The first one: the exporter presents one alone."""
    password = TokenFile(directory / EXPORTER / PASSWORD).tokens()[0].decode()
    return json.dumps({EXPORTED: password}) + "\n"


def _acl(directory: Path) -> str:
    """One user for each service. Strangers may ask whether the server lives."""
    lines = ["user default on nopass -@all +ping\n"]
    for service, holder in HOLDERS.items():
        if holder.commands:
            passwords = TokenFile(directory / service / PASSWORD).tokens()
            digests = (f"#{hashlib.sha256(password).hexdigest()}" for password in passwords)
            lines.append(f"user {service} on {' '.join(digests)} {' '.join((*holder.keys, rights(holder.commands)))}\n")
    return "".join(lines)
