"""Tokens a second that the torch engine samples, by model, batch and number format.

Random weights, prompts of one length, no end-of-sequence token: each step adds a token to every sequence. What is timed
are steps after the prompts were read and after steps that do not count, in which kernels are compiled and captured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch

from ais.contracts.sampling import Precision, SamplingParameters
from ais.rollout.engine import GenerationRequest
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import rounded_weights
from benchmarks.gpu import shapes, timing
from benchmarks.gpu.points import Session, Values

PRECISIONS = {
    "bf16": Precision(weights="bf16"),
    "e4m3": Precision(weights="e4m3", granularity="channel", activations="e4m3"),
    "int8": Precision(weights="int8", granularity="channel", activations="int8"),
}
SAMPLES = 8
"""Responses to a prompt."""
PROMPT = 128
WARM_UP_STEPS = 12
STEPS = 48
"""Steps that are timed, or as many as fit `MOST_SECONDS`."""
MOST_SECONDS = 4.0


def cases(small: bool) -> Iterator[tuple[str, int]]:
    """Model and sequences at once, what is wanted most first."""
    if small:
        yield "tiny", 16
        return
    yield from (
        ("8b", 256),
        ("4b", 128),
        ("0.6b", 128),
        ("4b", 32),
        ("4b", 256),
        ("8b", 32),
        ("0.6b", 32),
        ("0.6b", 256),
    )


def measure(session: Session) -> None:
    for name, count in cases(session.small):
        for label, precision in PRECISIONS.items():
            session.measure(f"{name}, batch {count}, {label}", partial(_speed, session.device, name, count, precision))


@torch.inference_mode()
def _speed(device: str, name: str, count: int, precision: Precision) -> Values:
    architecture = shapes.architecture_of(shapes.config_of(name))
    before = timing.forget_peak(device)
    policy = ServedPolicy(
        rounded_weights(shapes.random_tensors(architecture, device), architecture, precision, torch.device(device)),
        version=0,
        digest="",
    )
    timing.release(device)
    held = timing.forget_peak(device) - before
    positions = PROMPT + WARM_UP_STEPS + STEPS + 8
    batch = Batch(architecture, precision, policy, count, positions)
    _submit(batch, architecture, count, positions)
    filling = timing.seconds(batch.step, device)
    for _ in range(WARM_UP_STEPS):
        batch.step()
    timing.synchronise(device)
    begun, steps = time.perf_counter(), 0
    while steps < STEPS and time.perf_counter() - begun < MOST_SECONDS:
        batch.step()
        steps += 1
    timing.synchronise(device)
    took = time.perf_counter() - begun
    assert batch.slots.running == count
    return {
        "tokens_per_second": count * steps / took,
        "step_milliseconds": took / steps * 1e3,
        "first_step_seconds": filling,
        "weights_gigabytes": held / 1e9,
        "peak_gigabytes": (timing.peak(device) - before) / 1e9,
        "host_waits_a_step": timing.host_waits(batch.step, device).total(),
    }


def _submit(batch: Batch, architecture: Architecture, count: int, positions: int) -> None:
    """Groups of random prompts whose responses end only where the positions do."""
    generator = torch.Generator().manual_seed(0)
    sampling = SamplingParameters(max_new_tokens=positions - PROMPT, seed=0)
    for ticket in range(count // SAMPLES):
        prompt = torch.randint(3, architecture.vocab_size, (PROMPT,), generator=generator).tolist()
        request = GenerationRequest(str(ticket), tuple(prompt), SAMPLES, sampling)
        batch.submit(Group(ticket, request, (), seed=ticket, arrived=0.0))
