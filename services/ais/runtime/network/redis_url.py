"""The URL of a Redis server: what may stand in it, and how it is shown without its password."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from pydantic import Secret

MASK = "***"
"""Stands in the place of a password wherever a URL is shown."""
OPTIONS = frozenset(
    {
        "db",
        "client_name",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
    }
)
"""What may follow the question mark. The client's other options would change what our calls rely on."""

_FORM = (
    "expected redis://[USER[:PASSWORD]@]HOST[:PORT][/DB], rediss://... for TLS, or "
    "unix://[USER[:PASSWORD]@]/PATH/OF/SOCKET[?db=DB]; an IPv6 host stands in brackets, and a space is written %20"
)
# A password may hold any of /?#@: as it is. So the part before the last @ is what makes the part after it a server.
_USER = r"(?:(?P<userinfo>\S+?)@)??"
_QUERY = r"(?:\?(?P<query>[^\s=&#?@]+=[^\s&#]*(?:&[^\s=&#?@]+=[^\s&#]*)*))?"
_TCP = re.compile(
    rf"(?P<scheme>rediss?)://{_USER}(?P<place>(?:\[[^\s\]@/]+\]|[^\s\[\]:@/?#]*)(?::(?P<port>\d+))?)(?:/(?P<db>\d*))?{_QUERY}"
)
_UNIX = re.compile(rf"(?P<scheme>unix)://{_USER}(?P<place>/[^\s?#]+){_QUERY}")
_PASSWORD = re.compile(r"\b((?:rediss?|unix)://[^\s:/@]*:)\S*@")


class RedisUrl(Secret[str]):
    """A Redis URL as a setting: printing it, logging it or dumping it as JSON shows no password; empty is false."""

    def _display(self) -> str:
        return without_passwords(self.get_secret_value())

    def __bool__(self) -> bool:
        return bool(self.get_secret_value())


@dataclass(frozen=True)
class RedisServer:
    """What a URL says, in parts."""

    url: str
    """Without user and password, as redis-py reads it."""
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> RedisServer:
        """Raises ValueError, whose message does not repeat the URL. `%XX` in user and password is decoded."""
        match = _TCP.fullmatch(url) or _UNIX.fullmatch(url)
        if match is None:
            raise ValueError(f"is not a Redis URL: {_FORM}")
        parts = match.groupdict()
        if int(parts.get("port") or 0) > 65535:
            raise ValueError(f"has port {parts['port']}: ports end at 65535")
        options = [option.partition("=")[0] for option in (parts["query"] or "").split("&") if option]
        if unknown := sorted(set(options) - OPTIONS):
            raise ValueError(f"has the option {unknown[0]}, which is not one of {', '.join(sorted(OPTIONS))}")
        if parts["scheme"] != "rediss" and (tls := [option for option in options if option.startswith("ssl_")]):
            raise ValueError(f"has the option {tls[0]}, which is for rediss:// only")
        username, _, password = (parts["userinfo"] or "").partition(":")
        if password == MASK:
            raise ValueError(f"has {MASK} for a password: it was copied from where passwords are masked")
        server = f"{parts['scheme']}://{parts['place']}"
        server += f"/{parts['db']}" if parts.get("db") else ""
        server += f"?{parts['query']}" if parts["query"] else ""
        return cls(server, unquote(username) or None, unquote(password) or None)


def without_passwords(text: str) -> str:
    """Text with `***` in the place of the password of every Redis URL in it. No URL has a space in it."""
    return _PASSWORD.sub(rf"\g<1>{MASK}@", text)
