"""The program of an episode, as the collector starts it: has `forking.py` fork one that plays, and ends as that does.

It is started for each episode, so it imports as little as it can: `python -I -S forked.py SOCKET`.
"""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    variables = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}
    server.sendall(json.dumps({"variables": variables, "input": sys.stdin.readline()}).encode() + b"\n")
    code = server.recv(16)
sys.exit(int(code or b"1"))
