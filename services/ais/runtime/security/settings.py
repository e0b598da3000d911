"""Settings of who may call the services of a run: section [security], which every service reads."""

from __future__ import annotations

from pathlib import Path

from ais.runtime.settings import Section


class SecuritySettings(Section):
    """Who may call the services of a run: docs/security.md."""

    tokens: Path | None = None
    """Directory with collector.token, trainer.token and metrics.token, closed to other users; `ais secrets` makes one.
    None: the run's own, in its directory, which is made where every listener is on loopback. A file has one token a
    line: all are accepted, the first one is presented, and a changed file is read again."""
    open_to_network: bool = False
    """INSECURE. True: nobody is asked for a token, so whoever reaches a port may read all and replace the policy."""
