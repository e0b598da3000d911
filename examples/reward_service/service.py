"""A reward service: `uvicorn service:app --port 8700`. Put a judge model, a code sandbox or a simulator in `score`.

It is asked as docs/rewards.md says, and wants the header `Authorization: Bearer TOKEN`, TOKEN from its environment.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

TOKEN = os.environ.get("REWARD_SERVICE_TOKEN", "")
MOST_AT_ONCE = 8

app = FastAPI(title="Reward service")
room = asyncio.Semaphore(MOST_AT_ONCE)


class Item(BaseModel):
    """One response to judge."""

    id: str
    prompt: str
    response: str
    answer: str
    metadata: dict[str, Any] = {}
    finish_reason: str


class Question(BaseModel):
    """A batch: responses to one prompt."""

    items: list[Item]


@app.post("/score")
async def scores(question: Question, authorization: Annotated[str, Header()] = "") -> dict[str, list[Any]]:
    """One entry an item, in their order: a number, named numbers, or an error that costs this item alone."""
    if not TOKEN or not hmac.compare_digest(authorization.encode(), f"Bearer {TOKEN}".encode()):
        raise HTTPException(401, "expected Authorization: Bearer, and the token of REWARD_SERVICE_TOKEN")
    return {"scores": list(await asyncio.gather(*map(_judged, question.items)))}


async def _judged(item: Item) -> Any:
    async with room:
        try:
            return await score(item)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


async def score(item: Item) -> float | dict[str, float]:
    """The share of the answer's characters that stand in their places, and whether all do."""
    right = sum(given == wanted for given, wanted in zip(item.response.strip(), item.answer, strict=False))
    return {"places": right / len(item.answer), "exact": float(item.response.strip() == item.answer)}
