"""How a service's process begins and ends: settings, logging, signals, and the exit codes of `ais.runtime.exits`."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.exits import UnavailableError as UnavailableError
from ais.runtime.logging import LoggingSettings, configure_logging
from ais.runtime.network.redis import RedisUnreachableError
from ais.runtime.reading import read_settings
from ais.runtime.settings import SettingsError
from ais.runtime.stopping import stop_on_signals
from ais.runtime.tracing.exporter import traces

PR_SET_PDEATHSIG = 1
MOST_FILES = 65_536

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=BaseModel)


def die_with_parent() -> None:
    """Asks for this process to be killed when the process that started it is gone, even by SIGKILL. (Linux only.)

    Call it in the main thread: the request ends with the thread that made it.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def allow_open_files() -> None:
    """Raises the soft limit on open files, often 1,024, to the hard one: every connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def service_parser(description: str) -> argparse.ArgumentParser:
    """The command line that every service shares."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-c", "--config", type=Path, help="TOML settings file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    return parser


def run_service(
    name: str,
    settings_model: type[Settings],
    serve: Callable[[Settings, asyncio.Event], Awaitable[None]],
    description: str,
    stop_seconds: Callable[[Settings], float],
) -> None:
    """Reads settings, runs `serve(settings, stop)` until it returns, and exits the process with the right code.

    `stop` is set by SIGTERM and SIGINT; a process that still runs `stop_seconds` later ends all the same, with exit
    code 1. `settings_model` may have a `logging: LoggingSettings` field. Sections of the
    file that the model does not know belong to other services and are left to them.
    """
    arguments = service_parser(description).parse_args()
    try:
        settings = read_settings(settings_model, arguments.config, arguments.overrides, whole=False)
    except SettingsError as error:
        print(f"ais {name}: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    configure_logging(name, getattr(settings, "logging", LoggingSettings()))
    allow_open_files()
    try:
        with traces(name):
            asyncio.run(_until_stopped(settings, serve, stop_seconds(settings)))
    except SettingsError as error:
        logger.error("%s", error)
        sys.exit(EXIT_SETTINGS)
    except (RedisUnreachableError, UnavailableError) as error:
        logger.error("%s", error)
        sys.exit(EXIT_UNAVAILABLE)
    except Exception:
        logger.exception("stopped by an error that nothing handled")
        sys.exit(EXIT_FAILED)


async def _until_stopped(
    settings: Settings, serve: Callable[[Settings, asyncio.Event], Awaitable[None]], seconds: float
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop, seconds)
    await serve(settings, stop)
