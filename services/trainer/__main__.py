"""`python -m services.trainer -c FILE`: the trainer service."""

from __future__ import annotations

import asyncio

from services.runtime.process import run_service
from services.trainer.settings import Settings


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    # Importing torch and transformers takes seconds: wrong settings are told before.
    from services.trainer.service import serve_trainer

    await serve_trainer(settings, stop)


if __name__ == "__main__":
    run_service("trainer", Settings, serve, "Trains the policy on the groups that the collector publishes.")
