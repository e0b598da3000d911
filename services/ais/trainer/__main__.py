"""`python -m ais.trainer -c FILE`: the trainer service, or, under torchrun, one of its ranks."""

from __future__ import annotations

import asyncio
import os

from ais.runtime.process import die_with_parent, run_service
from ais.trainer.settings import Settings

RANK = int(os.environ.get("RANK", "0"))
STOP_SECONDS = 600.0
"""One step and one checkpoint, of a large model. Whoever started the process may well kill it before."""


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    # Importing torch and transformers takes seconds: wrong settings are told before.
    if RANK == 0:
        from ais.trainer.service import serve_trainer

        await serve_trainer(settings, stop)
    else:
        from ais.trainer.learning.conductor import follow

        await follow(settings)  # asked to stop, rank 0 still needs it for the checkpoint, and says when it may end


if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    name = f"trainer, rank {RANK}" if RANK else "trainer"
    description = "Trains the policy on the groups that the collector publishes."
    run_service(name, Settings, serve, description, stop_seconds=lambda _settings: STOP_SECONDS)
