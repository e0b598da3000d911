"""What this project has measured, and where it stands. A test compares each figure with its record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """One figure of a record in benchmarks/results."""

    value: float
    unit: str
    file: str
    """Below benchmarks/results."""
    where: tuple[str, str]
    """Name of the point or figure, and of the value."""

    @property
    def source(self) -> str:
        return f"benchmarks/results/{self.file}, {self.where[0]}"


# One H200. Decoding: random weights, prompts of 128 tokens and 12 to 60 after them, every sequence running.
FUSED = "gpu/fused.json"
DECODE_8B = Measured(8.723298958332274, "ms a step", FUSED, ("8b, batch 256, e4m3", "step_milliseconds"))
DECODE_4B = Measured(5.735891583332394, "ms a step", FUSED, ("4b, batch 128, e4m3", "step_milliseconds"))
DECODE_06B = Measured(3.045645708333211, "ms a step", FUSED, ("0.6b, batch 128, e4m3", "step_milliseconds"))
DECODE_CONTEXT = 128 + 12 + 48 / 2
"""Tokens that a sequence of these records has on average."""

SECOND = "gpu/second.json"
_STEP, _VERSION = "0.6b, full, 64 x 960", "version"
FORWARD = Measured(0.6181929410000748, "s", SECOND, (_STEP, "forward_seconds"))
BACKWARD = Measured(1.3256558760000416, "s", SECOND, (_STEP, "backward_seconds"))
STEP = Measured(2.089268847000028, "s", SECOND, (_STEP, "step_seconds"))
STEP_TOKENS, STEP_LENGTH, STEP_PASSES = 64 * 960, 960, 4
"""Tokens of that step, of one of its sequences, and its microbatches."""
RESTING = Measured(7.221456896, "GB", SECOND, (_STEP, "resting_gigabytes"))
PEAK = Measured(45.168525312, "GB", SECOND, (_STEP, "peak_gigabytes"))
WRITE = Measured(1.543552380000051, "s", SECOND, (_VERSION, "write_and_digest_seconds"))
ENCODE = Measured(1.3829825579999806, "s", SECOND, (_VERSION, "encode_delta_seconds_8_threads"))
APPLY = Measured(1.2449360519999573, "s", SECOND, (_VERSION, "apply_delta_seconds_8_threads"))
DELTA = Measured(24.543008, "MB", SECOND, (_VERSION, "delta_megabytes"))
VERSION = Measured(1192.14164, "MB", SECOND, (_VERSION, "megabytes"))

# Two cores of a server, one thread a process: what one Redis and one collector carry.
QUEUE_TRAJECTORIES = Measured(6969.563048662858, "trajectories/s", "queue.json", ("ours_trajectories", "value"))
QUEUE_BYTES = Measured(230.16285011904222, "MB/s", "queue.json", ("ours_bytes", "value"))
COLLECTOR = Measured(
    0.4881695267810712,
    "ms of a core a trajectory, Redis' included",
    "scale.json",
    ("replicas_64_pace_1024_collector_and_queue", "value"),
)
