"""Answers as `ais_verifiers.py` does, without the package: `PYTHON stand_in.py -P SCRIPT tasks|play`.

The taskset's id says what its episodes do.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from typing import Any

begun = json.loads(sys.stdin.readline())
taskset = begun["env"]["taskset"]
held: set[int] = set()


def say(reply: dict[str, Any]) -> None:
    os.write(1, json.dumps(reply).encode() + b"\n")


def call(asked: dict[str, Any], path: str, body: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {asked['key']}", "Content-Type": "application/json"}
    request = urllib.request.Request(asked["base_url"] + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))


def play(asked: dict[str, Any]) -> None:
    number = asked["episode"]
    if taskset["id"] == "dies":
        os._exit(3)
    if taskset["id"] == "mumbles":
        os.write(1, b"not JSON\n")
        return
    call(asked, "/chat/completions", {"messages": asked["task"]["messages"]})
    if taskset["id"] == "fails":
        say({"episode": number, "failed": "TaskError: the\nrubric\nis broken"})
    elif taskset["id"] in ("lingers", "clings"):
        held.add(number)
    else:
        call(asked, "/end", {"reward": os.getpid() / 1000})
        say({"episode": number, "failed": None})


def main() -> None:
    if taskset["id"] == "broken":
        sys.exit("ImportError: no such environment")
    if sys.argv[-1] == "tasks":
        messages = [{"role": "user", "content": "00-31;"}]
        for number in range(begun["most"]):
            say({"key": f"key {number}", "prompt": messages, "task": {"number": number, "messages": messages}})
        return
    say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        if "cancel" not in asked:
            threading.Thread(target=play, args=(asked,), daemon=True).start()
        elif taskset["id"] != "clings":
            while asked["cancel"] not in held:
                time.sleep(0.01)
            say({"episode": asked["cancel"], "failed": "cancelled"})


if __name__ == "__main__":
    main()
