"""Ends vLLM's processes when the replica's own has ended, however it ended.

vLLM's engine and worker processes outlive a parent that is killed: they would keep the model in memory and nobody would
ask them for anything again. So they are started with a mark in their environment, and a small program beside the
replica waits for its standard input to end, which is when the replica does, and kills what bears the mark.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # of vLLM's own requirements

MARK = "AIS_VLLM_OF"
"""Environment variable of every process that one replica's vLLM starts (by spawn: a forked one has none of its own)."""
KEEP_ENVIRONMENT = "SPT_NOENV"
"""Tells setproctitle, by which vLLM's processes name themselves, not to write over their environment."""


@contextmanager
def watchdog() -> Iterator[None]:
    """Processes started while the context is open, and theirs, are killed at its end, or when this process dies."""
    # Another replica of this process, if there is one, has its own mark there.
    before = {name: os.environ.get(name) for name in (MARK, KEEP_ENVIRONMENT)}
    os.environ[MARK], os.environ[KEEP_ENVIRONMENT] = secrets.token_hex(8), "1"
    # In a session of its own: the terminal's Ctrl-C is for the replica, which may still drain.
    with subprocess.Popen((sys.executable, __file__), stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        try:
            yield
        finally:
            process.stdin.close()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def main() -> None:
    sys.stdin.read()
    while found := list(marked(os.environ[MARK])):  # one may have started another meanwhile
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(1)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Other processes that bear the mark."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                yield process


if __name__ == "__main__":
    main()
