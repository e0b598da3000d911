"""Exit codes of `ais` and of every service, for people, for scripts and for whoever starts a process again."""

from __future__ import annotations


class UnavailableError(RuntimeError):
    """Something the service needs is not there. The message says what, and what to do."""


EXIT_FAILED = 1
"""Something else went wrong."""
EXIT_SETTINGS = 2
"""The settings or the arguments are wrong. The same call fails again."""
EXIT_UNAVAILABLE = 3
"""Something that is needed is not there: Redis, a model directory, a data file."""
EXIT_RANK_LOST = 4
"""A rank of the trainer lost another one."""
EXIT_PIPE_CLOSED = 141
"""Whoever read the standard output has closed it. What shells say of a program that SIGPIPE ended."""
