"""What the launcher starts."""

from __future__ import annotations

from pathlib import Path

from ais.launcher.processes.commands import Command, TrainerRanks, evaluation, evaluation_replica, service_commands
from ais.runtime.network.redis_url import RedisUrl
from ais.runtime.settings import RedisSettings

REDIS = RedisSettings(url=RedisUrl("redis://user:hidden@h:1/0"))


def test_several_ranks_are_started_by_torchrun_on_this_machine_and_again_when_one_fails() -> None:
    command = service_commands(Path("c.toml"), REDIS, replicas=1, trainer=TrainerRanks(4, 2)).trainer
    line = " ".join(command.arguments[1:])
    assert line == ("-m ais.trainer.ranks.torchrun --nproc-per-node 4 --max-restarts 2 -m ais.trainer -c c.toml")


def test_one_rank_is_a_plain_process() -> None:
    command = service_commands(Path("c.toml"), REDIS, replicas=1).trainer
    assert " ".join(command.arguments[1:]) == "-m ais.trainer -c c.toml"


def commands(redis: RedisSettings) -> list[Command]:
    services = service_commands(Path("c.toml"), redis, replicas=2, trainer=TrainerRanks(4, 2))
    replica = evaluation_replica(Path("c.toml"), redis, "run", ())
    scoring = evaluation(
        Path("c.toml"), redis, "run", replica=("h:1", "http://h:2"), checkpoints=(), prompts=1, output=Path("o")
    )
    return [*services.replicas, services.collector, services.trainer, replica, scoring]


def test_the_url_of_redis_is_in_the_environment_and_nowhere_else() -> None:
    for command in commands(REDIS):
        assert command.environment == {"AIS_REDIS__URL": "redis://user:hidden@h:1/0"}
        assert "hidden" not in repr(command)


def test_certificates_and_password_for_redis_go_with_its_url_because_the_runs_file_may_be_of_another_user() -> None:
    redis = RedisSettings(
        url=RedisUrl("rediss://h:1/0"), certificates=Path("/secrets"), password_file=Path("/secrets/redis.password")
    )
    for command in commands(redis):
        assert command.environment["AIS_REDIS__CERTIFICATES"] == "/secrets"
        assert command.environment["AIS_REDIS__PASSWORD_FILE"] == "/secrets/redis.password"
