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
    certificates: Path | None = None
    """Directory with ca.crt, tls.crt and tls.key (closed to other users); `ais secrets` makes one for each service, and
    a TLS secret of Kubernetes is one. With it services speak mutual TLS to each other: a listener takes callers with a
    certificate of that authority alone, and a replica's certificate says `rollout`. A changed file is read again. None:
    nothing is encrypted. Redis has a setting of its own, redis.certificates."""
    open_to_network: bool = False
    """INSECURE. True: nobody is asked for a token, so whoever reaches a port may read all and replace the policy."""
