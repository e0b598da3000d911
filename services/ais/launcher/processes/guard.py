"""Becomes a command that ends when the launcher does: `python guard.py LAUNCHER_PID COMMAND [ARGUMENT ...]`.

Linux sends the process SIGTERM when its parent is gone, even by SIGKILL; the wish survives exec. A script of its own,
because the wish must be made in the child and Python code between fork and exec is not safe.
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
        if os.getppid() != launcher:  # it died before the wish took effect
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
