"""A service's part in the security of its run: its doors, and what it presents at others'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ais.runtime.network.addresses import is_loopback
from ais.runtime.security.certificates import Certificates
from ais.runtime.security.door import Door
from ais.runtime.security.roles import Role
from ais.runtime.security.settings import SecuritySettings
from ais.runtime.security.tokens import TokenFile, make_tokens, token_path
from ais.runtime.settings import RunSettings, SettingsError

TOKENS = "tokens"
"""Name of the directory of a run's own tokens, in the run's."""


class Credential:
    """What a caller presents."""

    def __init__(self, file: TokenFile | None = None, certificates: Certificates | None = None) -> None:
        """`certificates`: it speaks TLS, and presents these; None: it speaks plainly."""
        self._file = file
        self.certificates = certificates

    def headers(self) -> dict[str, str]:
        """For an HTTP request, or as the metadata of a gRPC call. Ask for each anew: tokens change."""
        return {} if self._file is None else {"authorization": f"Bearer {self._file.tokens()[0].decode()}"}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The same as gRPC takes it."""
        return tuple(self.headers().items())


NOBODY = Credential()
"""Presents nothing."""


@dataclass(frozen=True)
class Keyring:
    """The tokens of a run, and the certificates of a service of it."""

    directory: Path | None
    """Where the tokens are; None: nobody is asked for one."""
    certificates: Certificates | None = None
    """None: the service and its callers speak plainly."""

    def door(self, *needed: Role) -> Door:
        """A door that knows the tokens of the roles `needed`, and of others whose file is there.

        Raises UnavailableError or SettingsError when one that is needed cannot be read.
        """
        if self.directory is None:
            return Door(None, self.certificates)
        paths = {role: token_path(self.directory, role) for role in Role}
        files = {role: TokenFile(path) for role, path in paths.items() if role in needed or path.is_file()}
        return Door(files, self.certificates)

    def credential(self, role: Role) -> Credential:
        """What a service presents in that role. Raises UnavailableError or SettingsError."""
        file = None if self.directory is None else TokenFile(token_path(self.directory, role))
        return Credential(file, self.certificates) if file or self.certificates else NOBODY


def tokens_of(security: SecuritySettings, run_directory: Path) -> Path:
    """The tokens of a run that begins or goes on in `run_directory`: those of the settings, or its own, which are made
    if they are not there. Raises UnavailableError."""
    if security.tokens is None:
        make_tokens(run_directory / TOKENS)
    return security.tokens or run_directory / TOKENS


def open_keyring(security: SecuritySettings, run: RunSettings, **listeners: str) -> Keyring:
    """The tokens of a run, which are made where that is safe, and the service's certificates. `listeners`: hosts by the
    names of their settings, with two underscores for a dot.

    Raises SettingsError for a listener that the network can reach while there are no tokens, and for certificates that
    cannot be used, UnavailableError for such as cannot be read.
    """
    certificates = None if security.certificates is None else Certificates(security.certificates)
    if security.open_to_network:
        return Keyring(None, certificates)
    if security.tokens is None and not (run.path / TOKENS).is_dir():
        for name, host in listeners.items():
            if not is_loopback(host):
                raise SettingsError(
                    f"{name.replace('__', '.')} = {host!r}: the network can reach this service, and there are no "
                    "tokens. Set security.tokens to a directory that `ais secrets DIR` has made, the same for every "
                    "service of the run"
                )
    return Keyring(tokens_of(security, run.path), certificates)
