"""Makes the small policy that a run starts from, by `ais warmstart` or as the first thing of `ais run`."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ais.launcher.warmstart import warm_start
from ais.settings import Settings, save


def make_missing_model(settings: Settings) -> int:
    """Makes run.model where it is not there and the settings ask for it. Returns an exit code; its reason is said."""
    model = settings.run.model
    if not settings.launcher.warm_start.when_missing or (model / "config.json").is_file():
        return 0
    print(f"{model} is not there yet: making it, once (launcher.warm_start)", file=sys.stderr)
    return make_model(settings, model)


def make_model(settings: Settings, output: Path) -> int:
    """Warm-starts a policy on the settings' task. Returns the exit code of the process that failed, or 0."""
    with TemporaryDirectory(prefix="ais-warmstart-") as directory:
        file = Path(directory) / "config.toml"
        save(settings, file)
        return warm_start(output, file, settings.launcher.warm_start)
