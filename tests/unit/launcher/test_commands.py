"""What the launcher starts."""

from __future__ import annotations

from pathlib import Path

from ais.launcher.processes.commands import TrainerRanks, evaluation, evaluation_replica, service_commands
from ais.runtime.network.redis_url import RedisUrl

URL = RedisUrl("redis://user:hidden@h:1/0")


def test_several_ranks_are_started_by_torchrun_on_this_machine_and_again_when_one_fails() -> None:
    command = service_commands(Path("c.toml"), URL, replicas=1, trainer=TrainerRanks(4, 2)).trainer
    line = " ".join(command.arguments[1:])
    assert line == ("-m ais.trainer.ranks.torchrun --nproc-per-node 4 --max-restarts 2 -m ais.trainer -c c.toml")


def test_one_rank_is_a_plain_process() -> None:
    command = service_commands(Path("c.toml"), URL, replicas=1).trainer
    assert " ".join(command.arguments[1:]) == "-m ais.trainer -c c.toml"


def test_the_url_of_redis_is_in_the_environment_and_nowhere_else() -> None:
    services = service_commands(Path("c.toml"), URL, replicas=2, trainer=TrainerRanks(4, 2))
    replica = evaluation_replica(Path("c.toml"), URL, "run", ())
    scoring = evaluation(
        Path("c.toml"), URL, "run", replica=("h:1", "http://h:2"), checkpoints=(), prompts=1, output=Path("o")
    )
    for command in (*services.replicas, services.collector, services.trainer, replica, scoring):
        assert command.environment == {"AIS_REDIS__URL": "redis://user:hidden@h:1/0"}
        assert "hidden" not in repr(command)
