"""Where a run's Redis is: at the address of its settings, or the server that `ais run` keeps for it."""

from __future__ import annotations

from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.network.redis_url import RedisUrl
from ais.runtime.settings import RedisSettings

CONNECT_SECONDS = 3.0
"""How long a command waits for the server: a person waits for its answer."""


def reachable(settings: RedisSettings, directory: RunDirectory) -> RedisSettings | None:
    """How a command reaches the run's server; None where there is none now."""
    if settings.url:
        url = settings.url
    elif directory.server_url.is_file():
        url = RedisUrl(directory.server_url.read_text(encoding="utf-8").strip())
    else:
        return None
    return settings.model_copy(update={"url": url, "connect_timeout_seconds": CONNECT_SECONDS})
