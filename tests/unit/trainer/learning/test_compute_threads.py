"""Torch's threads are set where the learner works."""

from __future__ import annotations

from typing import Any, cast

import torch

from ais.trainer.learning.conductor import Conductor
from ais.trainer.learning.learner import Learner
from ais.trainer.ranks.ranks import Ranks


class CountsThreads:
    """Stands for a learner, and gives the threads that torch would compute its snapshot with."""

    def snapshot(self) -> Any:
        return torch.get_num_threads()


def test_the_learner_computes_with_the_threads_of_the_settings_and_who_computed_before_keeps_its_own() -> None:
    before = torch.get_num_threads()
    try:
        conductor = Conductor(cast(Learner, CountsThreads()), Ranks(torch.device("cpu")), threads=before + 2)
        assert cast(Any, conductor.snapshot()) == before + 2
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)  # threads that begin later take over the number that was set last
