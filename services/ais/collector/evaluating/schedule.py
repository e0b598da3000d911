"""Which evaluation is due: a function of the trainer's version and of the results there are. Pure."""

from __future__ import annotations

from collections.abc import Container


def due(every_steps: int, version: int, last_step: int, done: Container[int]) -> int | None:
    """The step to evaluate while the trainer is at `version`: the newest multiple of `every_steps`, if not `done`.

    One that was missed, because the one before took too long, stays out. `last_step` is not evaluated here: training is
    over then, and the replicas end. None: nothing is due.
    """
    if version < 0 or every_steps == 0:
        return None
    step = version // every_steps * every_steps
    return None if step in done or step >= last_step else step
