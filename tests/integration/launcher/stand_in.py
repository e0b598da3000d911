"""Small real processes in the place of the services: they use the real registry and write real step lines."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import Precision
from ais.runtime.logging import LoggingSettings, configure_logging
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings


async def replica(arguments: argparse.Namespace) -> None:
    registry = ReplicaRegistry(await connect(RedisSettings(url=arguments.redis)), Keys(arguments.run))
    record = ReplicaRecord(
        replica_id=f"replica-{os.getpid()}",
        grpc_address="127.0.0.1:1",
        http_url="http://127.0.0.1:1",
        engine="stand-in",
        precision=Precision(),
        model_type="none",
        vocab_size=23,
        parameter_count=1,
        policy_version=0,
        policy_digest="blake3:0",
        ready=True,
        slots=1,
        running_sequences=0,
        waiting_sequences=0,
    )
    while True:
        await registry.heartbeat(record)
        await asyncio.sleep(0.2)


def collector(arguments: argparse.Namespace) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a child of its own
    signal.pause()


def trainer(arguments: argparse.Namespace) -> None:
    arguments.steps_file.unlink(missing_ok=True)  # it has no checkpoint, so it begins again
    with arguments.steps_file.open("a") as steps:
        for step in range(1, arguments.steps + 1):
            time.sleep(arguments.step_seconds)
            steps.write(json.dumps({"step": step, "time": time.time(), "reward_mean": step / arguments.steps}) + "\n")
            steps.flush()
    print("this is what the trainer said last")
    sys.exit(arguments.code)


def deaf(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def dies(arguments: argparse.Namespace) -> None:
    configure_logging("collector", LoggingSettings())
    logging.error("this is why it died")
    sys.exit(arguments.code)


def complains(arguments: argparse.Namespace) -> None:
    configure_logging("collector", LoggingSettings(format=arguments.log_format))
    logging.info("metrics at http://127.0.0.1:1/metrics")
    for attempt in itertools.count():
        logging.warning("nobody answers, attempt %d", attempt)
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("--redis")
    parser.add_argument("--run")
    parser.add_argument("--steps-file", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--step-seconds", type=float, default=0.05)
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--log-format", default="text")
    arguments = parser.parse_args()
    result = globals()[arguments.role](arguments)
    if asyncio.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    main()
