"""The trainer's command line, with one process and with several."""

from __future__ import annotations

from pathlib import Path

from ais.launcher.processes.commands import TrainerRanks, service_commands


def test_several_ranks_are_started_by_torchrun_on_this_machine_and_again_when_one_fails() -> None:
    command = service_commands(Path("c.toml"), "redis://x", replicas=1, trainer=TrainerRanks(4, 2)).trainer
    line = " ".join(command.arguments[1:])
    assert line == (
        "-m torch.distributed.run --standalone --nproc-per-node 4 --max-restarts 2 "
        "-m ais.trainer -c c.toml --set redis.url=redis://x"
    )


def test_one_rank_is_a_plain_process() -> None:
    command = service_commands(Path("c.toml"), "redis://x", replicas=1).trainer
    assert " ".join(command.arguments[1:]) == "-m ais.trainer -c c.toml --set redis.url=redis://x"
