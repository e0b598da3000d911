"""The directory of a run: what lies where in it, and a new one for each run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import TOKENS


@dataclass(frozen=True)
class RunDirectory:
    """Layout of one run's directory."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """The settings the run was started with, all of them."""
        return self.path / "config.toml"

    @property
    def logs(self) -> Path:
        """One log file a process."""
        return self.path / "logs"

    @property
    def steps(self) -> Path:
        """One JSON line an optimizer step, written by the trainer."""
        return self.path / "steps.jsonl"

    @property
    def groups(self) -> Path:
        """One JSON line a group that was trained, written by the trainer: who sampled it, and when it came where."""
        return self.path / "groups.jsonl"

    @property
    def ledger(self) -> Path:
        """One JSON line a commit, written by the trainer: which groups it consumed."""
        return self.path / "ledger.jsonl"

    @property
    def samples(self) -> Path:
        """One JSON line a prompt and response that is kept, written by the trainer."""
        return self.path / "samples.jsonl"

    @property
    def warnings(self) -> Path:
        """One JSON line a warning of the trainer's."""
        return self.path / "warnings.jsonl"

    @property
    def fleet(self) -> Path:
        """The replicas as the trainer saw them last, as JSON."""
        return self.path / "fleet.json"

    @property
    def checkpoints(self) -> Path:
        """Hugging Face directories step-000040, step-000080, ..., written by the trainer."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Hugging Face directory of the final policy, written by the trainer."""
        return self.path / "model"

    @property
    def evaluations(self) -> Path:
        """One JSON line a checkpoint and precision, written after training."""
        return self.path / "evaluations.jsonl"

    @property
    def held_out(self) -> Path:
        """One JSON line a step and source that was evaluated while training, written by the trainer."""
        return self.path / "held_out.jsonl"

    @property
    def launcher_lock(self) -> Path:
        """Held by the launcher while it lives."""
        return self.path / "launcher.lock"

    @property
    def processes_lock(self) -> Path:
        """Held by the launcher's processes while one of them lives."""
        return self.path / "processes.lock"

    @property
    def replicas(self) -> Path:
        """How many replicas the run is to have, where `ais scale` has changed that since its launcher started."""
        return self.path / "replicas"

    @property
    def record(self) -> Path:
        """When it ran, on what, and how it ended, as JSON."""
        return self.path / "run.json"

    @property
    def data(self) -> Path:
        """Which data files the run began with, with digests, as JSON."""
        return self.path / "data.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def valkey(self) -> Path:
        """Data of the run's own Valkey server."""
        return self.path / "valkey"

    @property
    def server_url(self) -> Path:
        """URL of the run's own Valkey server, as long as it runs; other commands reach it by this."""
        return self.path / "redis.url"


def fresh_run_directory(parent: Path, name: str) -> RunDirectory:
    """Makes `parent/name`, or `name-2`, `name-3`, ... if an earlier run is there. Nothing is ever overwritten.

    Only its owner may look into it: a password may be in it. Raises UnavailableError when no directory can be made
    there.
    """
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not parent.is_dir():
                raise UnavailableError(f"run.directory: {parent} is not a directory") from None
            if _has_tokens_alone(path):
                return RunDirectory(path)
            number += 1
        except OSError as error:
            raise UnavailableError(f"run.directory: {path} cannot be made: {error.strerror}") from error
        else:
            return RunDirectory(path)


def _has_tokens_alone(path: Path) -> bool:
    """Whether a service that was started by hand has made the run's tokens, and nobody anything else."""
    try:
        return [one.name for one in path.iterdir()] == [TOKENS]
    except OSError:
        return False


def checkpoints_of(directory: RunDirectory) -> list[Path]:
    """Complete checkpoints, sorted by step. A checkpoint has another name while it is being written."""
    numbered = [
        (int(match.group(1)), path)
        for path in directory.checkpoints.glob("step-*")
        if (match := re.fullmatch(r"step-(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _step, path in sorted(numbered)]


def early_end(directory: RunDirectory) -> tuple[int, str] | None:
    """The step after which training was ended as being in vain, and why; None: it was not."""
    try:
        manifest = json.loads((directory.model / "manifest.json").read_bytes())
        return (int(manifest["step"]), manifest["early_stop"]) if manifest.get("early_stop") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most `most` (two or more) of `paths`: the first, the last, and others evenly between."""
    if len(paths) <= most:
        return paths
    return [paths[round(index * (len(paths) - 1) / (most - 1))] for index in range(most)]
