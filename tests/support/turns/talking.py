"""Episodes of the demo's policy with the environment of `talker`, in real worker processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ais.collector.episodes.call import Call
from ais.collector.exercise import Ending, Exercise, open_exercise
from ais.collector.prompts.prompts import Split
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import SamplingParameters
from tests.support.turns.replica import POLICY, VOCABULARY


@asynccontextmanager
async def exercise(
    environment: Mapping[str, Any],
    endings: list[tuple[Ending, int, int]] | None = None,
    judged: list[tuple[str, str]] | None = None,
    template: Path | None = None,
    **judging: Any,
) -> AsyncIterator[Exercise]:
    told = [] if endings is None else endings
    calls = [] if judged is None else judged
    settings = CollectorProcessSettings.model_validate(
        {
            "run": {"model": POLICY},
            "rollout": {"max_model_len": 256},
            "collector": {
                "task": {"digits": 6, "environment": environment},
                "prompt": {"chat_template": template},
                "judging": {"workers": 1} | judging,
            },
        }
    )
    async with open_exercise(
        settings,
        Split.TRAIN,
        lambda name, outcome, _: calls.append((name, outcome)),
        observe_episode=lambda *one: told.append(one),
    ) as opened:
        yield opened


def talker(turns: int = 8, **parameters: Any) -> dict[str, Any]:
    return {
        "name": "python",
        "object": "tests.support.turns.talker:Talker",
        "parameters": parameters,
        "turns": turns,
    }


def call(samples: int = 2, **fields: Any) -> Call:
    usual: dict[str, Any] = {
        "name": "group",
        "samples": samples,
        "sampling": SamplingParameters(max_new_tokens=6, seed=11),
        "vocab_size": VOCABULARY,
        "deadline_seconds": 60.0,
    }
    return Call(**usual | fields)
