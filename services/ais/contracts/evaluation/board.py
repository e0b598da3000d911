"""The evaluations of a run, on their way from the collector to the trainer: a hash in Redis, one field a step.

Only the collector writes, once for each step; the trainer, which keeps them in the run's directory, takes away those of
steps that are trained again. A result is refused when a trainer has started since the evaluation began: the policy of
its step may not exist any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

from redis.asyncio import Redis

from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.keys import Keys
from ais.runtime.network.patience import persist
from ais.runtime.strays import Strays

LONGEST_RESULT = 1 << 20
"""Bytes of a result, whatever wrote it."""

_PUBLISH = """
if redis.call('HGET', KEYS[1], 'incarnation') ~= ARGV[1] then return 0 end
return redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
"""


class EvaluationBoard:
    """Results of one run."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._strays = Strays("evaluation")
        self._publish = redis.register_script(_PUBLISH)

    async def publish(self, result: EvaluationResult, incarnation: int) -> bool:
        """False: there is one of that step, or another trainer than `incarnation` is at work now. Waits for Redis."""
        call = partial(
            self._publish,
            keys=[self._keys.position, self._keys.evaluations],
            args=[incarnation, result.step, result.model_dump_json()],
        )
        return bool(await persist(call, None))

    async def results(self, patience_seconds: float | None = None) -> Mapping[int, EvaluationResult]:
        """All there are, by rising step, without what is none. Waits for Redis, None: for ever."""
        call = partial(self._redis.hgetall, self._keys.evaluations)
        fields = cast(dict[bytes, bytes], await persist(call, patience_seconds))
        found = {}
        for field, text in fields.items():
            try:
                result = decode_result(field, text)
            except ValueError as error:
                self._strays.skip(field, str(error))
            else:
                found[result.step] = result
        return dict(sorted(found.items()))

    async def forget_after(self, step: int) -> None:
        """Takes away the results of later steps, which are trained again."""
        later = [known for known in await self.results() if known > step]
        if later:
            await persist(partial(self._redis.hdel, self._keys.evaluations, *map(str, later)), None)


def decode_result(field: bytes, text: bytes) -> EvaluationResult:
    """The result kept under `field`, its step. Raises ValueError."""
    if len(text) > LONGEST_RESULT:
        raise ValueError(f"it has {len(text)} bytes")
    result = EvaluationResult.model_validate_json(text)
    if field != str(result.step).encode():
        raise ValueError(f"it is of step {result.step}")
    return result
