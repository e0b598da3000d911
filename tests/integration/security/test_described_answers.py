"""Every answer of every HTTP application is one that its OpenAPI names, whatever is asked and whoever asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig

from tests.support.access.applications import APPLICATIONS, Exposed, Headers, made_anywhere

EXAMPLES = {"who may ask": 20, "nobody": 5, "a wrong token": 5}
"""Requests to each route by the caller; half of them such as the OpenAPI does not allow."""
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"enabled": False},  # a valid offer is of weights that nobody has
            "ignored_auth": {"enabled": False},  # test_closed_endpoints.py; and who asks is given by each test here
        },
        "generation": {"with-security-parameters": False},
    }
)
WRONG = {"authorization": "Bearer " + "0123456789abcdef" * 3, "cookie": "ais-console-01234567=0123456789abcdef"}


def test_the_table_has_every_application() -> None:
    assert made_anywhere() == set(APPLICATIONS)


@pytest.fixture(scope="module", params=APPLICATIONS)
def listening(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposed]:
    with APPLICATIONS[request.param](tmp_path_factory.mktemp("described")) as exposed:
        yield exposed


@pytest.mark.parametrize("caller", EXAMPLES)
def test_every_answer_is_one_that_is_described(listening: Exposed, caller: str) -> None:
    schema = schemathesis.openapi.from_dict(listening.document, config=CONFIG)
    for operation in (one.ok() for one in schema.get_all_operations()):
        allowed = listening.allowed(operation.method.upper(), operation.path)
        headers = {"who may ask": allowed, "nobody": {}, "a wrong token": WRONG}[caller]
        ask(operation, listening.url, headers, EXAMPLES[caller])


def ask(operation: schemathesis.APIOperation, url: str, headers: Headers, examples: int) -> None:
    allowed, mutated = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

    @given(allowed | mutated)
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def every_answer(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=url, headers=dict(headers), timeout=10)

    every_answer()
