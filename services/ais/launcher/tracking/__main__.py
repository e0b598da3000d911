"""`python -m ais.launcher.tracking RUN_DIRECTORY TRACKER [--once]`: tells a tracker what a run writes.

Goes on until SIGTERM, then tells the rest and ends. --once: tells what there is and ends.

A process of its own for each tracker, of low priority: whatever its library does, waits for or breaks, training does
not notice.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import typing
from pathlib import Path

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.tracking.follower import Follower
from ais.launcher.tracking.run import read_tracked_run
from ais.launcher.tracking.settings import TrackerName
from ais.launcher.tracking.tracker import TrackedRun, open_tracker
from ais.runtime.exits import EXIT_FAILED, EXIT_UNAVAILABLE
from ais.runtime.logging import LoggingSettings, configure_logging
from ais.runtime.process import UnavailableError

POLL_SECONDS = 1.0
"""How often the files are looked at."""
NICENESS = 10
_PRIVATE = {"WANDB_ERROR_REPORTING": "false", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Environment in which the libraries report nothing to their makers."""
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL")
"""Environment that would have trackio send what it is told."""

logger = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("tracker", choices=typing.get_args(TrackerName))
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    configure_logging(f"tracker {arguments.tracker}", LoggingSettings())
    os.nice(NICENESS)
    os.environ.update(_PRIVATE)
    for name in _ELSEWHERE:
        os.environ.pop(name, None)
    stop = threading.Event()
    if arguments.once:
        stop.set()
    try:
        run = read_tracked_run(RunDirectory(arguments.directory))
        signal.signal(signal.SIGTERM, lambda *_: _end(stop, run.settings.final_seconds))
        track(run, arguments.tracker, stop)
    except UnavailableError as error:
        logger.error("%s", error)
        sys.exit(EXIT_UNAVAILABLE)
    except Exception as error:  # each library raises what it likes
        logger.error("%s: %s", type(error).__name__, error, exc_info=logger.isEnabledFor(logging.DEBUG))
        sys.exit(EXIT_FAILED)


def track(run: TrackedRun, name: TrackerName, stop: threading.Event) -> None:
    """Tells the tracker until `stop` is set, then what has come by then, and closes it."""
    tracker = open_tracker(name, run)
    follower = Follower(RunDirectory(run.path), f"tracker-{name}", tracker)
    logger.info("follows %s", run.path)
    last = False
    while not last:
        last = stop.wait(POLL_SECONDS)
        follower.catch_up()
    tracker.close()
    logger.info("has told everything", extra={"entries": follower.told, "kept": follower.kept})


def _end(stop: threading.Event, seconds: float) -> None:
    """A library that hangs, when the launcher that would kill us is gone, holds the run's directory no longer."""
    stop.set()
    last = threading.Timer(seconds, os._exit, (EXIT_FAILED,))
    last.daemon = True
    last.start()


if __name__ == "__main__":
    main()
