"""What programs that are no services of a run get of a process's environment."""

from __future__ import annotations

import pytest

from ais.collector.tasks.verifiers_package.command import variables
from ais.runtime.inherited import inherited, without_proxy


def test_settings_of_services_and_their_traces_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIS_REDIS__URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "HF_HOME"):
        monkeypatch.setenv(name, "value")

    assert {"AIS_REDIS__URL", "OTEL_EXPORTER_OTLP_ENDPOINT"}.isdisjoint(inherited())
    assert {"AIS_REDIS__URL", "OTEL_EXPORTER_OTLP_ENDPOINT"}.isdisjoint(variables())
    assert inherited()["HF_HOME"] == variables()["HF_HOME"] == "value"


def test_hosts_that_the_user_reaches_directly_stay_so_however_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "upper.example")
    monkeypatch.setenv("no_proxy", "lower.example")

    direct = "upper.example,lower.example,127.0.0.1"
    assert without_proxy("127.0.0.1") == {"NO_PROXY": direct, "no_proxy": direct}
    assert variables()["no_proxy"] == direct
