"""Groups for the replay engine to replay: made up, written by the real encoder, of the shape of a real run's.

python -m benchmarks.support.recorded_groups FILE --longest 2048 --vocab-size 22
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from ais.contracts.recording import write_recording
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory, encode_group


def write_made_up(file: Path, *, groups: int, samples: int, shortest: int, longest: int, vocab_size: int) -> None:
    """Responses of random tokens, their lengths log-uniform from `shortest` to `longest`; the same file every time."""
    generator = random.Random(0)

    def trajectory(group: str, index: int) -> Trajectory:
        length = round(shortest * (longest / shortest) ** generator.random())
        values = np.random.default_rng(generator.getrandbits(32))
        return Trajectory(
            trajectory_id=f"{group}/{index}",
            group_id=group,
            sample_index=index,
            token_ids=values.integers(3, vocab_size, length, dtype=np.int32),
            behaviour_logprobs=-values.exponential(0.5, length).astype(np.float32),
            spans=(PolicySpan(0, 0, length),),
            finish_reason=FinishReason.STOP,
            sampling=SamplingParameters(max_new_tokens=longest),
            precision=Precision(),
            engine="made up",
            engine_version="",
            replica_id="made up",
            first_token_seconds=0.0,
            total_seconds=0.0,
        )

    def group(number: int) -> ScoredGroup:
        name = f"made-up-{number}"
        return ScoredGroup(
            group_id=name,
            ordinal=number,
            prompt_id=name,
            prompt_token_ids=np.array([3], dtype=np.int32),
            trajectories=tuple(trajectory(name, index) for index in range(samples)),
            rewards=(0.0,) * samples,
            task="made up",
            attempt=1,
        )

    write_recording(file, (encode_group(group(number)) for number in range(groups)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8, help="responses of a group")
    parser.add_argument("--shortest", type=int, default=16, help="tokens of a response")
    parser.add_argument("--longest", type=int, default=256, help="tokens of a response")
    parser.add_argument("--vocab-size", type=int, default=22, help="of the model, by default the demo's")
    arguments = vars(parser.parse_args())
    write_made_up(arguments.pop("file"), **arguments)


if __name__ == "__main__":
    main()
