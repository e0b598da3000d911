"""The deployment on a real Docker engine: one run that is watched, scaled, crashed, stopped and ended, in this order.

`make test-compose` makes the base images and runs this. Grafana is left out: Debian has no package to make an image of.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ais.launcher.directory.history import problems_of
from ais.runtime.settings import RunSettings
from ais.settings import load
from tests.support.compose_stack import START_SECONDS, STOP_SECONDS, Stack, eventually, ledger_of, stack_of
from tests.support.monitoring.dashboards import NOT_IN_THE_DEMO, expressions

pytestmark = [pytest.mark.compose, pytest.mark.timeout(2400)]

REPLICAS = 2
STEPS = 20
LAST_STEPS = 5
"""Trained after the stop."""
SERVICES = (
    *("secrets", "redis", "prepare", "rollout", "trainer", "collector", "evaluation"),
    *("redis-exporter", "prometheus"),
)
OURS = ("rollout", "trainer", "collector", "evaluation")
REDIS_TLS = (
    "--tls",
    *("--cacert", "/etc/ais/secrets/ca.crt", "--cert", "/etc/ais/secrets/tls.crt", "--key", "/etc/ais/secrets/tls.key"),
)

TRAINING_SECONDS = 600
SCRAPE_SECONDS = 60


@pytest.fixture(scope="module")
def built(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with stack_of(
        request,
        repository,
        SERVICES,
        tmp_path_factory.mktemp("stack") / "env",
        AIS_RUN__STEPS="100000",  # it trains until the tests are done with it
        AIS_LAUNCHER__EVALUATION_PROMPTS="32",
        AIS_LAUNCHER__EVALUATION_CHECKPOINTS="2",
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def stack(built: Stack) -> Stack:
    built.up(REPLICAS)
    return built


def brought_examples() -> list[str]:
    """Examples whose model is there without a download or a warm start, and that need neither a service nor another
    Python beside the stack."""
    examples = sorted((Path(__file__).parents[2] / "examples").glob("*/config.toml"))
    brought = [file.parent.name for file in examples if (load(file).run.model / "config.json").is_file()]
    return [name for name in brought if name not in ("reward_service", "verifiers_env")]


@pytest.fixture(scope="module")
def prepared(built: Stack) -> dict[str, subprocess.CompletedProcess[str]]:
    """What `prepare` does with each example: two at a time, once the first has made the network and the volumes."""
    first, *others = brought_examples()
    with ThreadPoolExecutor(2) as pool:
        return {first: built.prepare(first), **dict(zip(others, pool.map(built.prepare, others), strict=True))}


@pytest.mark.parametrize("example", brought_examples())
def test_an_example_is_chosen_by_one_variable(
    prepared: dict[str, subprocess.CompletedProcess[str]], example: str
) -> None:
    done = prepared[example]
    assert done.returncode == 0, done.stderr
    assert f"{example}-prepared is ready" in done.stdout


def test_a_mistyped_example_is_refused_with_the_names_of_those_there_are(built: Stack, repository: Path) -> None:
    done = built.prepare("sort17")
    assert done.returncode == 2
    assert "sort17/config.toml does not exist" in done.stderr
    assert "sort16, sort_swaps" in done.stderr
    assert not (repository / "examples/sort17").exists()


def test_the_demo_trains_on_two_replicas(stack: Stack) -> None:
    eventually(
        lambda: stack.query(f'ais_policy_version{{job="trainer"}} >= {STEPS}'),
        TRAINING_SECONDS,
        f"the trainer has done {STEPS} steps",
    )
    for moved in ("ais_rollout_generated_tokens_total > 0", "ais_rollout_policy_version > 0"):
        assert len({labels["instance"] for labels in stack.query(moved)}) == REPLICAS, moved


def test_prometheus_has_every_service_as_an_up_target(stack: Stack) -> None:
    expected = sorted(["rollout"] * REPLICAS + ["trainer", "collector", "redis-exporter", "prometheus"])
    eventually(lambda: stack.up_targets() == expected, SCRAPE_SECONDS, f"up targets are {expected}")
    eventually(lambda: stack.query("redis_up == 1"), SCRAPE_SECONDS, "Redis answers its exporter")


def test_a_stranger_in_the_network_of_the_stack_is_refused(stack: Stack) -> None:
    """The evaluation's container has a certificate of the stack, and no token of the run."""
    places = ("trainer:8000/metrics", "rollout:8000/v1/weights", "collector:8000/openapi.json")
    asked = [
        ask
        for place in places
        for ask in (("own", f"https://{place}"), ("none", f"https://{place}"), ("none", f"http://{place}"))
    ]
    for (certificate, url), said in zip(asked, answers(stack, asked), strict=True):
        assert said == "401" if certificate == "own" else said.endswith("Error"), (certificate, url, said)
    command = ("exec", "-T", "redis", "redis-cli", *REDIS_TLS, "get", "ais:demo:identity")
    assert "NOPERM" in stack.compose(*command)


def answers(stack: Stack, asked: Sequence[tuple[str, str]]) -> list[str]:
    """What requests from the evaluation's container get, by certificate and URL: a status, or what goes wrong first."""
    ask = (
        "import ssl, sys, httpx\n"
        "for certificate, url in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    context = ssl.create_default_context(cafile='/etc/ais/secrets/ca.crt')\n"
        "    context.check_hostname = False\n"
        "    if certificate == 'own':\n"
        "        context.load_cert_chain('/etc/ais/secrets/tls.crt', '/etc/ais/secrets/tls.key')\n"
        "    try: print(httpx.get(url, verify=context).status_code)\n"
        "    except httpx.TransportError as error: print(type(error).__name__)\n"
    )
    arguments = [part for one in asked for part in one]
    return stack.compose("exec", "-T", "evaluation", "python", "-c", ask, *arguments).split()


def test_when_certificates_expire_is_known_of_every_service(stack: Stack) -> None:
    def own() -> set[str]:
        return {labels["subject"] for labels in stack.query("ais_certificate_not_after_timestamp_seconds > time()")}

    eventually(lambda: own() == {"AIS authority", "rollout", "trainer", "collector"}, SCRAPE_SECONDS, "all are known")


def test_no_secret_is_in_what_the_engine_shows_or_a_service_says(stack: Stack) -> None:
    secret_files = "cat $(ls -d /etc/ais/secrets/* | grep -v crt)"
    secrets = {
        line
        for service in ("rollout", "trainer", "collector", "evaluation")
        for line in stack.compose("exec", "-T", service, "sh", "-c", secret_files).split()
        if "-" * 5 not in line and len(line) > 30
    }
    assert len(secrets) >= 3 + 4 + 4  # tokens, passwords and keys, which have several lines
    shown = [json.dumps(stack.containers()), stack.compose("logs", "--no-color"), stack.compose("top")]
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_every_query_of_the_dashboards_returns_data(stack: Stack) -> None:
    for place, query in expressions().items():
        if not any(name in query for name in NOT_IN_THE_DEMO):
            eventually(lambda query=query: stack.series(query), SCRAPE_SECONDS, f"data for {place}: {query}")


def test_promtool_accepts_the_prometheus_file(stack: Stack) -> None:
    report = stack.compose("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert "SUCCESS" in report


def test_containers_run_as_ordinary_users_without_capabilities_on_a_root_that_they_cannot_change(stack: Stack) -> None:
    for container in stack.containers():
        host, name = container["HostConfig"], container["Name"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["NanoCpus"] > 0, name
        assert host["Memory"] > 0, name
        assert host["LogConfig"]["Config"]["max-size"], name
    for service in ("trainer", "redis", "prometheus"):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() != "0", service


def test_every_container_that_answers_is_healthy(stack: Stack) -> None:
    def states() -> set[str]:
        answering = ("redis", "rollout", "trainer", "collector", "prometheus")
        return {one["State"]["Health"]["Status"] for one in stack.containers(*answering)}

    eventually(lambda: states() == {"healthy"}, SCRAPE_SECONDS, "every container is healthy")


def test_dead_letters_can_be_looked_at_in_a_container(stack: Stack) -> None:
    example = "/etc/ais/examples/sort16/config.toml"
    listing = stack.compose("exec", "-T", "trainer", "ais", "deadletter", "list", "-c", example)
    assert "no dead letters" in listing


def test_a_run_that_goes_on_has_a_report(stack: Stack) -> None:
    written = stack.compose("exec", "-T", "trainer", "ais", "report", "/var/lib/ais/runs/demo")
    assert written.strip() == "/var/lib/ais/runs/demo/report.html"


def test_a_replica_added_while_training_takes_the_newest_weights_and_samples_and_nothing_else_is_started_anew(
    stack: Stack,
) -> None:
    before, more = stack.starts(), REPLICAS + 1
    stack.up(more)
    for moved in ("ais_rollout_policy_version > 0", "ais_rollout_generated_tokens_total > 0"):
        eventually(
            lambda moved=moved: len({labels["instance"] for labels in stack.query(moved)}) == more,
            START_SECONDS,
            f"{moved} on {more} replicas",
        )
    assert before.items() <= stack.starts().items()


def test_the_run_goes_on_with_one_replica_and_no_failed_call_when_the_others_are_scaled_away(stack: Stack) -> None:
    stack.up(1)
    assert len(stack.containers("rollout")) == 1
    version = stack.value("ais_collector_policy_version")
    eventually(
        lambda: stack.value("ais_collector_policy_version") >= version + STEPS,
        TRAINING_SECONDS,
        f"the collector has seen {STEPS} more versions than {version:g}",
    )
    assert not stack.query("ais_collector_call_failures_total > 0")


def test_a_trainer_that_is_killed_comes_back_and_passes_where_it_was(stack: Stack) -> None:
    eventually(lambda: stack.value("ais_trainer_committed_version") > 0, TRAINING_SECONDS, "there is a checkpoint")
    version = stack.value('ais_policy_version{job="trainer"}')
    stack.crash("trainer")
    eventually(
        lambda: stack.query(f'ais_policy_version{{job="trainer"}} > {version} and ais_trainer_incarnation == 2'),
        TRAINING_SECONDS,
        f"trainer 2 is beyond version {version:g}",
    )
    (container,) = stack.containers("trainer")
    assert container["RestartCount"] == 1


@pytest.mark.parametrize("service", ["redis", "rollout", "collector", "trainer", "evaluation"])
def test_what_docker_kill_has_ended_comes_back_with_up_and_the_run_goes_on(stack: Stack, service: str) -> None:
    stack.kill(service)
    stack.up(1)
    eventually(lambda: stack.query("ais_collector_policy_version"), SCRAPE_SECONDS, "the collector is scraped again")
    version = stack.value("ais_collector_policy_version")
    eventually(
        lambda: stack.value("ais_collector_policy_version") > version,
        TRAINING_SECONDS,
        f"the collector has seen a version after {version:g}",
    )


def test_a_stopped_stack_ends_in_time_and_says_that_its_work_is_not_done(stack: Stack) -> None:
    """Nothing runs after it, until the next test."""
    stack.compose("stop", timeout=STOP_SECONDS)
    expected = dict.fromkeys((f"{service}-1" for service in SERVICES), 0)
    expected |= dict.fromkeys((f"{service}-1" for service in OURS), 143)  # the engine starts them with itself
    expected["redis-exporter-1"] = 2  # how Go ends the first process of a container that has no handler for SIGTERM
    assert stack.exit_codes() == expected


def test_the_stopped_run_goes_on_and_ends_with_each_group_trained_once(stack: Stack, tmp_path: Path) -> None:
    """Several trainers have shared the run: one crashed, one was killed, one stopped, one finishes."""
    stopped = ledger_of(stack.run_directory(tmp_path / "stopped"))
    steps = stopped[-1]["version"] + LAST_STEPS
    stack.set(AIS_RUN__STEPS=str(steps))
    stack.up(REPLICAS)
    eventually(stack.trained, TRAINING_SECONDS, f"trainer and collector have ended without error after {steps} steps")
    finished = stack.run_directory(tmp_path / "finished")
    assert problems_of(finished, steps, RunSettings().groups_per_batch) == []
    ledger = ledger_of(finished)
    assert ledger[: len(stopped)] == stopped
    incarnations = [commit["incarnation"] for commit in ledger]
    assert incarnations == sorted(incarnations)
    assert (incarnations[0], incarnations[-1]) == (1, 4)  # one that is killed soon may have finished no step
    assert (finished / "model" / "config.json").is_file()


def test_a_finished_run_is_evaluated_and_reported(stack: Stack, tmp_path: Path) -> None:
    eventually(
        lambda: stack.exit_codes("evaluation") == {"evaluation-1": 0}, TRAINING_SECONDS, "the evaluation has ended well"
    )
    run = stack.run_directory(tmp_path / "run")
    scores = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert {score["precision"] for score in scores} == {"bf16", "e4m3/channel x e4m3"}
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "Held-out reward of the checkpoints" in (run / "report.html").read_text()


def test_a_finished_run_may_be_brought_up_again_and_is_finished(stack: Stack) -> None:
    """The last of this module."""
    stack.up(REPLICAS)
    ended = {"prepare-1": 0, "trainer-1": 0, "collector-1": 0, "evaluation-1": 0}
    names = [name.removesuffix("-1") for name in ended]
    eventually(lambda: stack.exit_codes(*names) == ended, START_SECONDS, "everything has ended well again")
