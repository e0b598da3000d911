"""Encodes or applies one delta in a process of its own, and prints what it took, as JSON.

python -m benchmarks.support.weights_codec encode|apply BASE NEW DELTA THREADS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ais.contracts.weights.delta import apply_delta, encode_delta
from ais.contracts.weights.offer import digest_of_file
from benchmarks.support.memory import forget_peak, peak


def main() -> None:
    action, base, new, delta, threads = sys.argv[1], *map(Path, sys.argv[2:5]), int(sys.argv[5])
    size, digest = new.stat().st_size, digest_of_file(new)
    before, begun = forget_peak(os.getpid()), time.perf_counter()
    if action == "encode":
        encode_delta(base, new, delta, digest, threads)
    else:
        apply_delta(base, delta, new.with_suffix(".applied"), size, digest, threads)
    seconds = time.perf_counter() - begun
    new.with_suffix(".applied").unlink(missing_ok=True)
    print(json.dumps({"seconds": seconds, "growth": peak(os.getpid()) - before}))


if __name__ == "__main__":
    main()
