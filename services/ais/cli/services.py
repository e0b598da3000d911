"""One service in this process, for those who start each by themselves; and what a collector would ask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ais.cli.options import Config, Overrides

if TYPE_CHECKING:
    from ais.settings import Settings


def rollout(config: Config = None, overrides: Overrides = None) -> None:
    """Run one rollout replica: it samples responses in low precision, over gRPC, and takes new weights over HTTP.

    ais rollout -c config.toml --set redis.url=redis://queue:6379/0
    """
    _become_service("rollout", config, overrides)


def collector(config: Config = None, overrides: Overrides = None) -> None:
    """Run the collector: it sends prompts to the replicas, scores responses and queues groups for the trainer.

    ais collector -c config.toml --set redis.url=redis://queue:6379/0
    """
    _become_service("collector", config, overrides)


def agent(config: Config = None, overrides: Overrides = None) -> None:
    """Play episodes of a collector on this machine: a program for each, which calls the policy by OpenAI's API.

    For runs whose environment.name is `outside` (docs/environments.md); as many agents as one likes.

    ais agent -c config.toml --set agent.url=http://collector:8100 --set 'agent.command=["python", "agent.py"]'
    """
    _become_service("collector.agent", config, overrides)


def trainer(config: Config = None, overrides: Overrides = None) -> None:
    """Run the trainer: it takes BF16 policy-gradient steps with AIS and pushes every new version to the replicas.

    ais trainer -c config.toml --set redis.url=redis://queue:6379/0
    ais trainer -c config.toml --set trainer.ranks.count=8
    """
    from ais.launcher.processes.commands import TrainerRanks, trainer_command

    settings, arguments = service_arguments(config, overrides)
    become(trainer_command(TrainerRanks(settings.trainer.ranks.count, settings.trainer.ranks.max_restarts), *arguments))


def data(
    prompts: Annotated[int, typer.Option(min=0, help="Prompts of each source to show.")] = 2,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Show the prompts of a settings file as the policy will read them, before anything is trained.

    For each source: how many prompts are trained on, held out and too long, and the first ones with their tokens, their
    answers and what else verifiers get. Every row is checked, as before a run.

        ais data -c my-run.toml
        ais data -c my-run.toml --prompts 10
    """
    from ais.launcher.processes.commands import module

    _, arguments = service_arguments(config, overrides)
    become(module("ais.collector.preview", "--prompts", str(prompts), *arguments))


def _become_service(name: str, config: Path | None, overrides: list[str] | None) -> NoReturn:
    from ais.launcher.processes.commands import module

    _, arguments = service_arguments(config, overrides)
    become(module(f"ais.{name}", *arguments))


def service_arguments(config: Path | None, overrides: list[str] | None) -> tuple[Settings, list[str]]:
    """Checks the settings, all of them, before the service spends seconds on importing its libraries.

    The URL of Redis is handed on in the environment, where other users of the machine cannot read its password.
    """
    from ais.launcher.processes.commands import redis_environment
    from ais.settings import load

    settings = load(config, overrides or ())
    os.environ.update(redis_environment(settings.redis))
    arguments = ["-c", str(config)] if config else []
    for override in overrides or ():
        if override.partition("=")[0].strip() != "redis.url":
            arguments += ["--set", override]
    return settings, arguments


def become(command: tuple[str, ...]) -> NoReturn:
    os.execv(command[0], command)
