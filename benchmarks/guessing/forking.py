"""Forks the program of each episode from a Python that has imported OpenAI's client: `python forking.py SOCKET SCRIPT`.

Importing that client takes longer than a small policy takes for a whole episode. Here it is imported once. What is
forked runs the script as it is, with the variables, the standard input and the exit code of the program that the
collector has started (`forked.py`), which waits for it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

import openai

NOWHERE = "http://127.0.0.1:9/v1"
"""Nobody listens there."""
READY = "ready"
"""Said on standard output when programs may come."""
WAITING = 128


def main(path: str, script: str) -> None:
    with contextlib.suppress(openai.APIConnectionError):  # whatever the client imports at its first call is imported
        client = openai.OpenAI(base_url=NOWHERE, api_key="none", max_retries=0)
        client.chat.completions.create(model="policy", messages=[{"role": "user", "content": ""}])
    client.close()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(WAITING)
        print(READY, flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _play(connection, script)
            connection.close()


def _play(connection: socket.socket, script: str) -> None:
    """Becomes the program of one episode, and tells its exit code."""
    code = 1
    try:
        with connection.makefile("r", encoding="utf-8") as asked:
            told = json.loads(asked.readline())
        os.environ.update(told["variables"])
        sys.stdin, sys.argv = io.StringIO(told["input"]), [script]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            connection.sendall(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
