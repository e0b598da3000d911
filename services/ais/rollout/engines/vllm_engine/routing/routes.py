"""Routed experts of finished requests, as the engine takes them from vLLM: on a GPU with the output, by vLLM's own
recording; on a CPU from the workers (`recording.py`), many requests by one call."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.routing.shape import RoutingShape
from ais.rollout.engine import SamplingFailedError


class Routes:
    """Those of one engine."""

    def __init__(self, llm: Any, shape: RoutingShape, told_by_vllm: bool) -> None:
        """`told_by_vllm`: its outputs have them. (That was not run: it needs a GPU.)"""
        self._llm = llm
        self._shape = shape
        self._told_by_vllm = told_by_vllm
        self._wanted: dict[str, asyncio.Future[bytes]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def of(self, name: str, output: Any, tokens: int) -> RoutedExperts:
        """Those of a request that has ended with so many tokens read, prompt and response but the last. Raises
        SamplingFailedError where they are not all there."""
        if self._told_by_vllm:
            told = output.outputs[0].routed_experts  # of all layers
            ids = None if told is None else told[:, list(self._shape.layers)].astype(self._shape.dtype)
        else:
            layers, chosen = len(self._shape.layers), self._shape.experts_per_token
            ids = np.frombuffer(await self._taken(name), dtype=self._shape.dtype).reshape(-1, layers, chosen)
        if ids is None or len(ids) != tokens:
            got = "nothing" if ids is None else str(len(ids))
            raise SamplingFailedError(f"{name}: expected the routed experts of {tokens} tokens, vLLM tells {got}")
        return RoutedExperts(ids, self._shape.experts)

    async def _taken(self, name: str) -> bytes:
        asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wanted[name] = asked
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="routed experts")
        return await asked

    async def _ask(self) -> None:
        """Answers all that are wanted, those too that come meanwhile."""
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                ranks = await self._llm.engine_core.call_utility_all_async(
                    "collective_rpc", "ais_take_routes", None, (list(wanted),), None
                )
            except Exception as error:
                for asked in wanted.values():
                    if not asked.done():
                        asked.set_exception(error)
                continue
            answers = [rank for data_parallel_rank in ranks for rank in data_parallel_rank]
            for place, asked in enumerate(wanted.values()):
                if not asked.done():
                    asked.set_result(next(filter(None, (answer[place] for answer in answers)), b""))
