"""Becomes a command that ends when the launcher does: `python guard.py LAUNCHER_PID COMMAND [ARGUMENT ...]`.

Linux sends a process that has asked for it SIGTERM when its parent is gone, even by SIGKILL; the request survives exec.
This is a script of its own because the child has to make the request, and Python code between fork and exec is not
safe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    launcher, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:  # the launcher died before the request took effect
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
