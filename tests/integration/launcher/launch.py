"""Launches a run of stand-ins: `python launch.py DIRECTORY TRAINER_ARGUMENTS_JSON [COLLECTOR_ROLE [ARGUMENT ...]]`.

AIS_TEST_TRACKERS in the environment names its trackers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ais.launcher.directory.lock import held
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.display import open_display
from ais.launcher.processes.commands import Command, ServiceCommands, tracker
from ais.launcher.processes.processes import ProcessFailedError
from ais.launcher.processes.signals import run_cancellable
from ais.launcher.run import Plan, run
from ais.launcher.settings import LauncherSettings
from ais.runtime.exits import EXIT_PIPE_CLOSED, EXIT_UNAVAILABLE
from ais.runtime.output import Screen
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RedisSettings

STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def main() -> int:
    directory = RunDirectory(Path(sys.argv[1]))
    trainer_arguments = json.loads(sys.argv[2])
    collector_role = sys.argv[3] if len(sys.argv) > 3 else "collector"

    def services(redis: RedisSettings) -> ServiceCommands:
        url = redis.url.get_secret_value()

        def command(name: str, role: str, *more: str) -> Command:
            return Command(name, (sys.executable, STAND_IN, role, "--redis", url, "--run", directory.name, *more))

        return ServiceCommands(
            replicas=(command("rollout-0", "replica"), command("rollout-1", "replica")),
            collector=command("collector", collector_role, *sys.argv[4:]),
            trainer=command("trainer", "trainer", "--steps-file", str(directory.steps), *trainer_arguments),
        )

    async def launch() -> int:
        async with held(directory) as lock:
            plan = Plan(
                directory=directory,
                total_steps=5,
                quantised=False,
                float32_head=False,
                redis=RedisSettings(),
                launcher=LauncherSettings(evaluation_prompts=0, stop_grace_seconds=1.0),
                services=services,
                tokens=directory.path / "tokens",
                lock=lock,
                trackers=tuple(
                    tracker(directory.path, name) for name in os.environ.get("AIS_TEST_TRACKERS", "").split()
                ),
                tracking_seconds=2.0,
            )
            await run(plan, open_display(Screen(width=160), "stand-ins"))
        return 0

    try:
        return run_cancellable(launch())
    except ProcessFailedError as error:
        print(error)
        return error.exit_code
    except BrokenPipeError:
        return EXIT_PIPE_CLOSED
    except UnavailableError as error:
        print(error)
        return EXIT_UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
