"""What of this process's environment programs get that are not services of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping

OURS = ("AIS_", "OTEL_")
"""Begins of names that are meant for services: settings, and whom they send traces to."""


def inherited() -> Mapping[str, str]:
    """The variables, less those of `OURS`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def without_proxy(host: str) -> Mapping[str, str]:
    """By which a program reaches `host` directly, and by no proxy whatever else the user reaches so."""
    named = (os.environ.get("NO_PROXY"), os.environ.get("no_proxy"), host)
    direct = ",".join(dict.fromkeys(name for name in named if name))
    return {"NO_PROXY": direct, "no_proxy": direct}
