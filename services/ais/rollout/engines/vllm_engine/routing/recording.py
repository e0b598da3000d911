"""What vLLM's routers choose, recorded inside a worker, where vLLM itself does not tell it: on a CPU.

(Its own `enable_return_routed_experts` needs its second model runner, and that one needs Triton.) Each router tells the
experts of the step under way; which rows of it are which tokens of which request, the scheduler's step says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.model_executor.layers.fused_moe.layer import MoERunner
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

from ais.contracts.routing.shape import id_dtype
from ais.rollout.engines.vllm_engine.routing.names import RECORDED, own_name
from ais.rollout.engines.vllm_engine.routing.store import RouteStore


class RouteRecorder:
    """Records one worker's model. Ranks that share its layers all route alike: the first one records."""

    def __init__(self, runner: Any) -> None:
        """From now on the runner's steps are recorded. Raises ValueError for a model whose routers do not tell."""
        self._runner = runner
        self._step: dict[int, torch.Tensor] = {}
        """What the step under way has chosen, by layer."""
        self._store = RouteStore()
        mixtures = [part for part in runner.get_model().modules() if isinstance(part, MoERunner)]
        for mixture in mixtures:
            if mixture._quant_method.is_monolithic or not isinstance(mixture.router, BaseRouter):
                kinds = f"{type(mixture.router).__name__} with {type(mixture._quant_method).__name__}"
                raise ValueError(f"{kinds} does not tell which experts it chooses")
        if not mixtures:
            raise ValueError(f"{type(runner.get_model()).__name__} has no layer that chooses among experts")
        self.layers = tuple(sorted(mixture.layer_id for mixture in mixtures))
        self.experts = int(mixtures[0].router.global_num_experts)
        self._dtype = id_dtype(self.experts)
        if not get_tp_group().is_first_rank:
            return
        for mixture in mixtures:
            mixture.router.set_capture_fn(self._telling(mixture.layer_id))
        self._execute = runner.execute_model
        runner.execute_model = self._executed

    def take(self, names: Sequence[str]) -> list[bytes]:
        """Those of each request, [tokens, layers, k] in numbers of `id_dtype`; nothing where there are none."""
        found = [self._store.take(name) for name in names]
        return [b"" if one is None else one.tobytes() for one in found]

    def _telling(self, layer: int) -> Callable[[torch.Tensor], None]:
        def tell(chosen: torch.Tensor) -> None:
            self._step[layer] = chosen.clone()

        return tell

    def _executed(self, step: Any, *arguments: Any, **named: Any) -> Any:
        """In the place of the runner's `execute_model`."""
        self._step.clear()
        output = self._execute(step, *arguments, **named)
        self._store.end((own_name(name) for name in step.finished_req_ids), time.monotonic())
        if step.total_num_scheduled_tokens and self._step:
            self._record(step)
        return output

    def _record(self, step: Any) -> None:
        chosen = torch.stack([self._step[layer] for layer in self.layers], dim=1).numpy().astype(self._dtype)
        cached = step.scheduled_cached_reqs
        begins = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        begins |= {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
        row = 0
        for name in self._runner.input_batch.req_ids:
            tokens = step.num_scheduled_tokens[name]
            if name.startswith(RECORDED):
                request = self._runner.requests[name]
                rows = chosen[row : row + tokens]
                self._store.keep(own_name(name), begins[name], rows, request.num_prompt_tokens, request.num_tokens)
            row += tokens
