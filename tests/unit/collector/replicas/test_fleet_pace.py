"""How soon everybody who follows the registry follows it."""

from __future__ import annotations

from ais.collector.replicas.fleet import POLL_SECONDS, URGENT_POLL_SECONDS
from ais.contracts.registry import EXPIRY_SECONDS, HEARTBEAT_SECONDS
from ais.trainer.settings import PushSettings


def test_a_change_of_the_registry_is_seen_within_a_heartbeat() -> None:
    assert URGENT_POLL_SECONDS < POLL_SECONDS < HEARTBEAT_SECONDS < EXPIRY_SECONDS
    assert PushSettings().registry_poll_seconds < HEARTBEAT_SECONDS
