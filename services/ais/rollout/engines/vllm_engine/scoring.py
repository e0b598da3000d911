"""Log-probs of given sequences, computed inside a worker while the scheduler stands still.

vLLM scores a prompt through its scheduler only, and a paused scheduler takes nothing. So that new weights can be
probed before any request is served with them, the worker is handed one step of our own: the same structure that the
scheduler sends, with the sequences as prompts whose log-probs are wanted. It needs a completed pause that cleared the
caches: every block of the key-value cache is free then, and what kept requests had there is computed again anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput

_FIRST_BLOCK = 1
"""Block 0 is vLLM's null block."""


def score(worker: Any, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probs, nats at temperature 1, of each sequence's tokens but the first.

    A step holds as many sequences as its token budget and the cache have room for. Raises ValueError for a sequence
    that no step can hold. A rank without the output head gives nothing.
    """
    scores: list[list[float]] = []
    begin = 0
    while begin < len(sequences):
        end = begin
        while end < len(sequences) and _fits(worker.model_runner, sequences[begin : end + 1]):
            end += 1
        if end == begin:
            raise ValueError(f"a sequence of {len(sequences[begin])} tokens is more than one step can hold")
        scores += _score_step(worker, sequences[begin:end])
        begin = end
    return scores


def _fits(runner: Any, sequences: Sequence[Sequence[int]]) -> bool:
    scheduler, cache = runner.scheduler_config, runner.kv_cache_config
    blocks = max(sum(_blocks(group, sequence) for sequence in sequences) for group in cache.kv_cache_groups)
    tokens = sum(map(len, sequences))
    return bool(
        len(sequences) <= scheduler.max_num_seqs
        and tokens <= scheduler.max_num_batched_tokens
        and max(map(len, sequences)) < runner.max_model_len
        and _FIRST_BLOCK + blocks <= cache.num_blocks
    )


def _blocks(group: Any, sequence: Sequence[int]) -> int:
    """Blocks of the cache that a sequence and one more token take."""
    return -(-(len(sequence) + 1) // int(group.kv_cache_spec.block_size))


def _score_step(worker: Any, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    step = _step(worker.model_runner.kv_cache_config.kv_cache_groups, sequences)
    try:
        output = worker.execute_model(step)
        if output is None:
            output = worker.sample_tokens(None)
        if hasattr(output, "get_output"):  # asynchronous scheduling: the copy to the host is still under way
            output = output.get_output()
    finally:
        end = SchedulerOutput.make_empty()
        end.finished_req_ids = set(step.num_scheduled_tokens)
        worker.execute_model(end)
    if output is None:
        return []  # a rank that does not hold the output head
    scored = [output.prompt_logprobs_dict[name].logprobs for name in step.num_scheduled_tokens]
    return [logprobs[:, 0].tolist() for logprobs in scored]


def _step(groups: Sequence[Any], sequences: Sequence[Sequence[int]]) -> SchedulerOutput:
    """One step in which every sequence is a new request, whole, in blocks of its own in each group of the cache."""
    sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    requests = []
    free = [_FIRST_BLOCK] * len(groups)
    for index, sequence in enumerate(sequences):
        blocks = []
        for number, group in enumerate(groups):
            count = _blocks(group, sequence)
            blocks.append(list(range(free[number], free[number] + count)))
            free[number] += count
        requests.append(
            NewRequestData(
                req_id=f"ais-probe-{index}",
                prompt_token_ids=list(sequence),
                mm_features=[],
                sampling_params=sampling,
                pooling_params=None,
                block_ids=tuple(blocks),
                num_computed_tokens=0,
                lora_request=None,
                prefill_token_ids=list(sequence),
            )
        )
    step = SchedulerOutput.make_empty()
    step.scheduled_new_reqs = requests
    step.scheduled_cached_reqs = CachedRequestData.make_empty()
    step.num_scheduled_tokens = {request.req_id: len(request.prompt_token_ids or ()) for request in requests}
    step.total_num_scheduled_tokens = sum(step.num_scheduled_tokens.values())
    return step
