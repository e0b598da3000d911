"""A plan in words, with every assumption and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

from ais.planning import measured
from ais.planning.rates import activation_bytes, fitted_decoding, measured_overhead, measured_utilisation
from ais.planning.sizing import CACHE_SHARE, QUEUED_RESPONSE_BYTES, QUEUED_TOKEN_BYTES, Job, Plan, plan

SIZES = (1, 8, 64, 512, 4096)
"""Replicas of the table in docs/scale.md."""


def lines(job: Job, made: Plan) -> Iterator[str]:
    """The plan for a person to read."""
    version = made.version
    yield f"{job.shape.parameters / 1e9:.2f}B parameters, {job.sequences} responses of {job.response} tokens a step"
    yield ""
    yield f"replicas           {made.replicas} of {job.replica_gpus} GPU, {made.slots} sequences at once each"
    yield f"                   {made.replica_rate:,.0f} tokens/s each, {made.decode * 1e3:.1f} ms a decode step"
    yield f"sampling a batch   {made.sampling:,.1f} s; its longest response {made.slowest:,.1f} s"
    yield f"training a batch   {made.training:,.1f} s on {job.trainer_gpus} GPUs"
    yield f"a version          {version.bytes / 1e9:,.2f} GB to each replica, there after {version.seconds:,.1f} s:"
    yield f"                   {version.write:,.1f} write, {version.send:,.1f} send ({version.depth} levels),"
    yield f"                   {version.apply:,.1f} apply"
    yield f"a step             {made.step:,.1f} s with run.max_staleness = {job.staleness}"
    yield f"staleness          {made.wanted_staleness} would let neither side wait"
    yield f"egress             {made.egress / 1e9:,.2f} GB a step from the trainer"
    yield ""
    yield "how near to its limit each part is"
    for limit in sorted(made.limits, key=lambda one: -one.used):
        yield f"  {limit.used:>8.1%}  {limit.name}: {limit.load:,.2f} of {limit.capacity:,.2f} {limit.unit}"
    yield ""
    yield "assumed"
    yield from (f"  {text}" for text in assumptions(job))


def assumptions(job: Job) -> Iterator[str]:
    """Each with its source."""
    decoding = fitted_decoding()
    yield (
        f"a decode step takes {decoding.factor:.2f} times the roofline and {decoding.layer_seconds * 1e6:.0f} us a "
        f"layer ({measured.DECODE_8B.source}, and 4b, batch 128)"
    )
    if job.utilisation is None:
        yield f"training reaches {measured_utilisation():.1%} of the BF16 rate ({measured.FORWARD.source})"
    else:
        yield f"training reaches {job.utilisation:.1%} of the BF16 rate (--utilisation)"
    yield f"a step takes {measured_overhead():.3f} times its forward and backward passes ({measured.STEP.source})"
    yield "layers are computed again in the backward pass: a third more operations (arithmetic)"
    yield f"activations: {activation_bytes():.0f} bytes a token, layer and unit of width ({measured.PEAK.source})"
    yield "trainer: 18 bytes a parameter, shared by its GPUs (float32 weights, gradients, moments; a BF16 copy)"
    if job.deltas:
        share = measured.DELTA.value / measured.VERSION.value
        yield f"a delta is {share:.1%} of a version ({measured.DELTA.source}); it depends on the learning rate"
    yield f"writing, encoding, applying: by the size of the model ({measured.WRITE.source})"
    yield f"links: {job.link * 8 / 1e9:g} Gbit/s a machine, used whole; each level waits for the one above (given)"
    yield (
        f"queue: {QUEUED_TOKEN_BYTES} bytes a token, {QUEUED_RESPONSE_BYTES} a response (docs/operations.md); Redis "
        f"carries {measured.QUEUE_TRAJECTORIES.value:,.0f} trajectories/s, {measured.QUEUE_BYTES.value:.0f} MB/s "
        f"({measured.QUEUE_BYTES.source})"
    )
    yield f"collector: {measured.COLLECTOR.value:.2f} {measured.COLLECTOR.unit} ({measured.COLLECTOR.source})"
    yield f"replicas use {CACHE_SHARE:.0%} of their memory; prompts take no time; ranks scale perfectly (assumed)"


def table(job: Job) -> Iterator[str]:
    """Markdown: the same job with more and more replicas, and a trainer and batches that keep up with them."""
    yield "| replicas | trainer's GPUs | responses | step | a version to all | egress a step | Redis | collector |"
    yield "|---|---|---|---|---|---|---|---|"
    for replicas in SIZES:
        grown = in_balance(job, replicas)
        made = plan(grown)
        redis = max(one.used for one in made.limits if one.name.startswith("Redis"))
        (collector,) = (one for one in made.limits if one.name == "collector")
        yield (
            f"| {replicas:,} | {grown.trainer_gpus:,} | {grown.sequences:,} | {made.step:,.0f} s | "
            f"{made.version.seconds:,.0f} s | {made.egress / 1e9:,.1f} GB | {redis:.1%} | {collector.load:.2f} cores |"
        )


def in_balance(job: Job, replicas: int) -> Job:
    """The job with so many replicas, a batch that grows with them, and as many GPUs of the trainer as train it in the
    time in which it is sampled."""
    groups = max(job.groups, ceil(job.groups * replicas / 8))
    made = plan(replace(job, replicas=replicas, groups=groups, trainer_gpus=1))
    fit = ceil(18.0 * job.shape.parameters / (0.6 * job.gpu.memory))
    return replace(job, replicas=replicas, groups=groups, trainer_gpus=max(fit, ceil(made.training / made.sampling)))
