"""How long work on a device takes, what memory it needs, and where it makes the host wait.

On a GPU times are of CUDA events, memory is what torch's allocator holds, and waiting is what torch warns of when it is
asked to. A processor has times alone.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

WARM_UP = 3
LEAST_SECONDS = 0.4
"""Wall seconds that the rounds of one figure take together, or `MOST_ROUNDS`."""
MOST_ROUNDS = 50
ROOT = Path(__file__).parents[2]

Call = Callable[[], Any]


def synchronise(device: str) -> None:
    """Returns when all work that the device was given is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def release(device: str) -> None:
    """Gives back memory that nothing refers to."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def milliseconds(call: Call, device: str) -> float:
    """The median over many calls, after some that do not count."""
    for _ in range(WARM_UP):
        call()
    synchronise(device)
    took: list[float] = []
    begun = time.perf_counter()
    while len(took) < MOST_ROUNDS and (len(took) < WARM_UP or time.perf_counter() - begun < LEAST_SECONDS):
        took.append(_once(call, device))
    return median(took)


def _once(call: Call, device: str) -> float:
    if device != "cuda":
        before = time.perf_counter()
        call()
        return (time.perf_counter() - before) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def seconds(call: Call, device: str) -> float:
    """Wall seconds of one call, up to the end of what it gave the device to do."""
    synchronise(device)
    before = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - before


def forget_peak(device: str) -> int:
    """From now on `peak` is that of what follows. Returns the bytes held now; 0 on a processor."""
    if device != "cuda":
        return 0
    synchronise(device)
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak(device: str) -> int:
    """The most bytes that tensors held at once; 0 on a processor."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def peak_of(call: Call, device: str) -> int:
    """Bytes that a call holds at its peak beyond what was held before it, its result included."""
    call()
    before = forget_peak(device)
    kept = call()
    held = peak(device) - before
    del kept
    return held


def host_waits(call: Call, device: str) -> Counter[str]:
    """How often a call that was made before makes the host wait for the GPU, by the line of Python that does."""
    found: Counter[str] = Counter()
    if device != "cuda":
        return found
    synchronise(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one in caught:
        if "called a synchronizing" in str(one.message):
            found[f"{_short(one.filename)}:{one.lineno}"] += 1
    return found


def _short(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def copy_bytes_per_second(device: str, size: int) -> float:
    """Bytes read and written in a second by a copy of `size` bytes."""
    source = torch.randint(0, 127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (milliseconds(lambda: target.copy_(source), device) / 1e3)
