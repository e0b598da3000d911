"""What is looked at before a run makes or starts anything: the model's directory, and what prompts are made of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ais.contracts.routing.shape import read_routing_shape
from ais.launcher.processes.commands import module
from ais.launcher.processes.processes import ProcessFailedError, service_environment
from ais.launcher.tracking.tracker import missing
from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError
from ais.runtime.settings import SettingsError
from ais.runtime.tracing.exporter import check_traces
from ais.settings import Settings, save
from ais.trainer.settings import WITHOUT_PEFT

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_before_start(settings: Settings, data: str | None = None) -> str:
    """Raises SettingsError or UnavailableError for a model, a task file, a tokenizer, a tracker or a collector of
    traces that cannot be used.

    Raises ProcessFailedError when looking at them fails for another reason. Gives which data files there are, as
    JSON; `data` is what it gave when the run began: SettingsError where their content is another one now.
    """
    check_trackers(settings)
    check_traces()
    check_agents(settings)
    check_shared_directory(settings)
    check_model(settings)
    if settings.trainer.lora.rank and find_spec("peft") is None:
        raise UnavailableError(WITHOUT_PEFT)
    return _check_prompts(settings, data)


def check_trackers(settings: Settings) -> None:
    """Raises UnavailableError for a tracker whose library is not installed."""
    for name in settings.tracking.trackers:
        if find_spec(name) is None:
            raise UnavailableError(missing(name))


def check_agents(settings: Settings) -> None:
    """That agents of the run's own have something to play, and know where they get it. Raises SettingsError."""
    if not settings.launcher.agents:
        return
    environments = [one.effective_environment for one in settings.collector.task.each_source]
    if not any(one is not None and one.plays_elsewhere for one in environments):
        raise SettingsError("launcher.agents: no environment.name of the task is outside, so there is nothing to play")
    if not settings.agent.command:
        raise SettingsError("launcher.agents: agent.command is needed, the program that plays an episode")
    if settings.agent.url:
        return
    if not settings.collector.agents_port:
        raise SettingsError("launcher.agents: collector.agents_port is needed, where these agents get episodes")
    if settings.security.certificates is not None:
        raise SettingsError("launcher.agents: with security.certificates agents need agent.url, by https")


def check_shared_directory(settings: Settings) -> None:
    """That replicas of the run look where the trainer writes. Raises SettingsError."""
    written, read = settings.trainer.push.shared_directory(settings.run.path), settings.rollout.shared_directory
    if written is not None and (read is None or read.resolve() != written.resolve()):
        raise SettingsError(
            f"trainer.push.transfer = shared: expected rollout.shared_directory = {located(written)}, where versions "
            f"are written, got {'none' if read is None else located(read)}"
        )


def check_model(settings: Settings) -> None:
    """Raises SettingsError or UnavailableError for a model that cannot be used."""
    model = settings.run.model
    if not (model / "config.json").is_file():
        raise UnavailableError(f"run.model: {located(model)} is not a Hugging Face model directory{_what_to_do(model)}")
    try:
        config = json.loads((model / "config.json").read_bytes())
        limit = config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UnavailableError(f"run.model: {located(model / 'config.json')} cannot be read: {error}") from None
    if settings.run.routing_replay:
        read_routing_shape(model)
    wanted, room = settings.collector.sampling.max_new_tokens, settings.rollout.max_model_len
    if wanted >= room:
        raise SettingsError(
            f"collector.sampling.max_new_tokens = {wanted} leaves no room for a prompt: rollout.max_model_len = {room} "
            "bounds prompt and response together"
        )
    if isinstance(limit, int) and wanted >= limit:
        raise SettingsError(
            f"collector.sampling.max_new_tokens = {wanted} leaves no room for a prompt: {located(model)} takes {limit} "
            "tokens, prompt and response together (max_position_embeddings)"
        )


def _what_to_do(model: Path) -> str:
    if model.exists():
        return " (it has no config.json)"
    written = "/".join(model.parts[-2:])
    if _HUB_ID.fullmatch(written) and not model.parent.exists():
        name = model.name
        return (
            f". If {written} is a model of the Hugging Face hub, download it first: "
            f"`hf download {written} --local-dir models/{name}`, then `--set run.model=models/{name}`"
        )
    return ": there is no such directory (`ais warmstart` makes the demo's, launcher.warm_start others)"


def _check_prompts(settings: Settings, data: str | None) -> str:
    with TemporaryDirectory(prefix="ais-check-") as directory:
        file, data_file = Path(directory) / "config.toml", Path(directory) / "data.json"
        save(settings, file)
        if data is not None:
            data_file.write_text(data, encoding="utf-8")
        command = module("ais.collector.check", "-c", str(file), "--data", str(data_file))
        ended = subprocess.run(
            command, env=service_environment(), stdout=sys.stderr.fileno(), stderr=subprocess.PIPE, check=False
        )
        found = data_file.read_text(encoding="utf-8") if ended.returncode == 0 else ""
    said = ended.stderr.decode("utf-8", errors="replace").strip().removeprefix("ais: ")
    if ended.returncode == EXIT_SETTINGS:
        raise SettingsError(said)
    if ended.returncode == EXIT_UNAVAILABLE:
        raise UnavailableError(said)
    if ended.returncode:
        raise ProcessFailedError(f"looking at the prompts failed:\n{said}", EXIT_FAILED)
    return found


def located(path: Path) -> str:
    """A path as it was written, and where that is."""
    return str(path) if path.is_absolute() else f"{path} ({path.absolute()})"
