"""Whether the trainer trains, or how it has ended."""

from __future__ import annotations

from typing import Literal, get_args

from ais.runtime.metrics.meter import Meter

State = Literal["training", "finished", "stopped", "failed"]


class RunStateMetrics:
    """One trainer's. One that fails before it has any figures shows this alone: zeros would be taken for figures."""

    def __init__(self, meter: Meter) -> None:
        self._state = meter.gauge(
            "ais_run_state",
            "1 for the state that the trainer is in: training, finished (all steps), stopped (asked to), failed. When "
            "its process has ended the last state is in `last_over_time(ais_run_state[1d])`.",
            "failed: the trainer's log ends with the reason; started again, it goes on from its newest checkpoint.",
            {"state": get_args(State)},
        )

    def enter(self, state: State) -> None:
        """The trainer is in `state` from now on."""
        for one in get_args(State):
            self._state.labels(one).set(one == state)
