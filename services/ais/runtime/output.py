"""Standard output and error that take any text, and whose reader may leave."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console


class Screen(Console):
    """Standard output for people. Raises BrokenPipeError once when its reader has left, and is silent from then on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()
        raise BrokenPipeError("whoever read the standard output has closed it")


def print_anything() -> None:
    """Makes every character printable: a file or a pipe gets UTF-8 whatever the locale, a terminal gets an escape for
    what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="backslashreplace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def discard_output() -> None:
    """Sends what is still to be written nowhere, so that the interpreter's last flush finds no closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
