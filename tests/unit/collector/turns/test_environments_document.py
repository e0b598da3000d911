"""The environments that docs/environments.md shows do what it says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from ais.collector.environments.protocol import PolicyTurn, Prompt, Step
from ais.contracts.sampling import FinishReason

DOCUMENT = Path(__file__).parents[4] / "docs" / "environments.md"


def shown() -> dict[str, Any]:
    """What the document's modules define, as users would import it."""
    found: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL):
        exec(code, found)
    return found


def said(text: str) -> PolicyTurn:
    return PolicyTurn(text, FinishReason.STOP, 0, 3)


def test_the_riddle_is_worth_1_when_it_is_solved_and_costs_a_tenth_each_time_before() -> None:
    riddle = shown()["Riddle"]()
    assert riddle.reset(Prompt("p", "?", "river")) is None
    assert asyncio.run(riddle.step(said("A road?"))) == Step(
        [{"role": "user", "content": "No. 3 turns left."}], reward=-0.1
    )
    assert asyncio.run(riddle.step(said("The river."))) == Step(reward=1.0, done=True)


def test_the_shop_tells_prices_and_judges_the_answer() -> None:
    shop = shown()["Shop"]()
    shop.reset(Prompt("p", "Tea and cake?", "7"))
    assert shop.tools[0]["function"]["parameters"]["required"] == ["of"]
    call = '<tool_call>{"name": "price", "arguments": {"of": "tea"}}</tool_call>'
    assert shop.step(said(call)) == Step([{"role": "tool", "content": "3"}])
    assert shop.step(said("7 in all")) == Step(reward=1.0, done=True)
