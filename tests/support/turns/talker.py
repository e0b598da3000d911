"""An environment for tests, of a module that takes no time to import in a worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ais.collector.environments.protocol import PolicyTurn, Prompt, Step

SAID = "7"
"""What is said when it is tried."""


class Talker:
    """Says a digit more each turn, and is done after `last` turns. What goes wrong is asked for by `misdeed`."""

    def __init__(self, last: int = 3, misdeed: str = "") -> None:
        self.last, self.misdeed, self.turns = last, misdeed, 0

    def reset(self, prompt: Prompt) -> Sequence[Mapping[str, Any]] | None:
        if self.misdeed == "no beginning":
            raise RuntimeError("nothing begins")
        return None

    async def step(self, turn: PolicyTurn) -> Step:
        await asyncio.sleep(0)
        assert turn.number == self.turns
        self.turns += 1
        if self.misdeed == "silent":
            raise RuntimeError("it never says anything")
        if self.misdeed == "foreign" and self.turns == 2 and turn.text != SAID:
            return Step([{"role": "user", "content": "\N{SNOWMAN}"}])
        if self.misdeed == "error" and self.turns == 2:
            raise RuntimeError("a broken tool")
        if self.misdeed == "endless" and self.turns == 2 and turn.text != SAID:
            while True:
                pass
        reward = 6e3 if self.misdeed == "rich" else 0.5
        return Step([{"role": "user", "content": "=" * self.turns}], reward, self.turns == self.last)
