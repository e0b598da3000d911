"""A service that the network can reach does not start without tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ais.collector.service import collect
from ais.collector.settings import CollectorProcessSettings
from ais.rollout.replica import serve_replica
from ais.rollout.settings import RolloutProcessSettings
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.security.keyring import NOBODY, TOKENS, open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.security.settings import SecuritySettings
from ais.runtime.settings import RunSettings, SettingsError
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings as TrainerProcessSettings
from tests.support.access import tokens
from tests.support.access.deployment import secrets

ADVICE = r"the network can reach this service, and there are no tokens\. Set security\.tokens .*`ais secrets DIR`"


async def test_each_service_refuses_to_listen_to_the_network_without_tokens(tmp_path: Path) -> None:
    run, stop = {"run": {"directory": tmp_path}}, asyncio.Event()
    with pytest.raises(SettingsError, match=rf"rollout\.host = '0\.0\.0\.0': {ADVICE}"):
        await serve_replica(RolloutProcessSettings.model_validate({**run, "rollout": {"host": "0.0.0.0"}}), stop)
    with pytest.raises(SettingsError, match=rf"collector\.http_host = '::': {ADVICE}"):
        await collect(CollectorProcessSettings.model_validate({**run, "collector": {"http_host": "::"}}), stop)
    with pytest.raises(SettingsError, match=rf"trainer\.http_host = '192\.0\.2\.1': {ADVICE}"):
        await serve_trainer(TrainerProcessSettings.model_validate({**run, "trainer": {"http_host": "192.0.2.1"}}), stop)
    assert not (tmp_path / "demo").exists()


def test_with_tokens_it_may_listen_to_the_network(tmp_path: Path) -> None:
    security = SecuritySettings(tokens=tokens())
    keyring = open_keyring(security, RunSettings(directory=tmp_path), rollout__host="0.0.0.0")
    assert keyring.directory == tokens()
    assert list(tmp_path.iterdir()) == []


def test_on_loopback_the_run_gets_tokens_of_its_own_which_all_its_services_share(tmp_path: Path) -> None:
    run = RunSettings(directory=tmp_path)
    first = open_keyring(SecuritySettings(), run, rollout__host="127.0.0.1")
    second = open_keyring(SecuritySettings(), run, collector__http_host="localhost")
    assert first.directory == second.directory == tmp_path / "demo" / TOKENS
    assert first.credential(Role.TRAINER).headers() == second.credential(Role.TRAINER).headers()


def test_a_run_that_is_open_by_name_asks_nobody(tmp_path: Path) -> None:
    security = SecuritySettings(open_to_network=True)
    keyring = open_keyring(security, RunSettings(directory=tmp_path), rollout__host="0.0.0.0")
    assert keyring.door(*Role).refusal(None, frozenset({Role.TRAINER})) is None
    assert keyring.credential(Role.TRAINER) is NOBODY
    assert list(tmp_path.iterdir()) == []


async def test_a_replica_with_the_certificate_of_another_service_does_not_start(tmp_path: Path) -> None:
    """As one of an evaluation would, in a run whose settings name the trainer's."""
    settings = {"run": {"directory": tmp_path}, "security": {"certificates": secrets() / "trainer"}}
    with pytest.raises(SettingsError, match=r"says 'trainer', .* asks for 'rollout': set security\.certificates"):
        await serve_replica(RolloutProcessSettings.model_validate(settings), asyncio.Event())


async def test_a_listener_without_a_door_is_for_this_machine_only() -> None:
    app = application("test", service_registry("test"), lambda: None)
    with pytest.raises(ValueError, match="needs a door"):
        async with serve(app, "0.0.0.0", 0):
            pass
