"""A real browser without a screen: Chromium, driven by the DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 30.0
"""No answer and no condition takes longer."""
_READS, _WRITES = 3, 4
"""Descriptors on which Chromium listens and answers, by --remote-debugging-pipe."""


def chromium() -> str | None:
    """Path of a Chromium; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """A page of the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, scheme: str) -> None:
        """`scheme`: light or dark, as the system's setting."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page. Raises AssertionError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until JavaScript is true in the page."""
        deadline = time.monotonic() + SECONDS
        while not self.evaluate(f"Boolean(document.body && ({condition}))"):
            assert time.monotonic() < deadline, f"waited too long for {condition}; {self.troubles}"
            time.sleep(0.02)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def troubles(self) -> list[Any]:
        """Exceptions, refused resources and violations of the page's policy so far, and what was logged as an error."""
        self.evaluate("0")  # what came before its answer is read
        mine = [one for one in self._browser.events if one.get("sessionId") == self._session]
        return [one["params"] for one in mine if _is_trouble(one["method"], one["params"])]

    @property
    def requested(self) -> list[str]:
        """Addresses that the page has asked for so far."""
        self.evaluate("0")
        mine = [one for one in self._browser.events if one.get("sessionId") == self._session]
        return [one["params"]["request"]["url"] for one in mine if one["method"] == "Network.requestWillBeSent"]


def _is_trouble(method: str, parameters: dict[str, Any]) -> bool:
    if method == "Log.entryAdded":  # of the browser itself
        return parameters["entry"]["level"] in ("warning", "error")
    return method == "Runtime.exceptionThrown" or (
        method == "Runtime.consoleAPICalled" and parameters["type"] == "error"
    )


class Browser:
    """A running Chromium."""

    def __init__(self, answers: int, calls: int) -> None:
        self._answers = answers
        self._calls = calls
        self._number = 0
        self._pending = b""
        self.events: list[dict[str, Any]] = []

    def page(self) -> Page:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Raises AssertionError for an error, and when no answer comes."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._calls, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while (answer := self._next(deadline)).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, "Chromium has ended"
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own, which ends with the context."""
    program = chromium()
    assert program, "no Chromium in the PATH"
    with TemporaryDirectory(prefix="ais-chromium-", ignore_cleanup_errors=True) as profile:
        options: tuple[str, ...] = ()
        options += ("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars")
        options += ("--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}")
        options += ("--no-sandbox",) if os.geteuid() == 0 else ()
        their_calls, calls = _high(os.pipe())
        answers, their_answers = _high(os.pipe())

        def place() -> None:
            os.dup2(their_calls, _READS)
            os.dup2(their_answers, _WRITES)

        process = subprocess.Popen(
            [program, *options, "about:blank"],
            pass_fds=(_READS, _WRITES),
            preexec_fn=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_calls)
        os.close(their_answers)
        try:
            yield Browser(answers, calls)
        finally:
            process.terminate()
            process.wait(30)
            os.close(calls)
            os.close(answers)


def _high(pair: tuple[int, int]) -> tuple[int, int]:
    """The same pipe by numbers that are not those of Chromium's."""
    moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in pair]
    for one in pair:
        os.close(one)
    return moved[0], moved[1]
