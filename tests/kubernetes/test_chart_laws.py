"""What the chart keeps to beyond Kubernetes' own rules: rights, ports, settings, secrets, times, alerts."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ais.beginnings import examples_directory, write_beginning
from ais.cli import app
from ais.issuing import HOLDERS
from ais.rollout.generation_server import STOP_GRACE_SECONDS
from ais.runtime.network.http import STOP_SECONDS
from ais.settings import load
from tests.support.access.deployment import secrets
from tests.support.access.endpoints import HTTP
from tests.support.charts import (
    CHART,
    MONITORED,
    ROOT,
    RUN,
    SETS,
    TRAINING,
    containers,
    environment,
    of_kind,
    pods,
    rendered,
)

pytestmark = pytest.mark.helm

SECRETS = "/etc/ais/secrets"
BOTH = pytest.mark.parametrize("values", SETS)
SERVICES = ("rollout", "trainer", "collector", "evaluation")


@BOTH
def test_no_container_runs_as_root_or_may_more_than_it_needs(values: str) -> None:
    objects = rendered(SETS[values])
    for component, pod in pods(objects).items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, component
        assert security["runAsUser"] > 0, component
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert pod["spec"]["automountServiceAccountToken"] is False, component
    for component, container in containers(objects):
        where = f"{component}/{container['name']}"
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }, where
        assert container["resources"]["limits"].keys() >= {"memory"}, where
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where


CALLERS = {
    ("rollout", 50051): {"collector"},
    ("rollout", 8000): {"trainer", "rollout", "prometheus"},
    ("trainer", 8000): {"prometheus"},
    ("collector", 8000): {"prometheus"},
    ("redis", 6379): {"rollout", "trainer", "collector", "evaluation"},
}
"""Who may connect to what: the roles of docs/security.md."""
EPISODES = {("collector", 8100): {"agent"}}
"""With agents."""


def callers(values: str) -> dict[tuple[str, int], set[str]]:
    return CALLERS | (EPISODES if values == "agents" else {})


@BOTH
def test_every_port_is_open_to_those_who_have_a_role_there_and_to_nobody_else(values: str) -> None:
    objects = rendered(SETS[values])
    policies = of_kind(objects, "NetworkPolicy")
    assert policies.keys() == pods(objects).keys()
    opened = {
        (component, port["port"]): {_name(peer) for rule in rules for peer in rule["from"] if port in rule["ports"]}
        for component, policy in policies.items()
        for rules in [policy["spec"]["ingress"]]
        for one in rules
        for port in one["ports"]
    }
    assert opened == callers(values)
    listened = {
        (component, port["containerPort"])
        for component, container in containers(objects)
        for port in container.get("ports", ())
    }
    assert listened == callers(values).keys()
    for component, policy in policies.items():
        assert (
            policy["spec"]["podSelector"]["matchLabels"].items()
            <= pods(objects)[component]["metadata"]["labels"].items()
        )
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


@BOTH
def test_whoever_may_call_a_port_may_also_reach_it(values: str) -> None:
    policies = of_kind(rendered(SETS[values]), "NetworkPolicy")
    reached = {
        (component, _name(peer), port["port"])
        for component, policy in policies.items()
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", ())
        for port in rule["ports"]
    }
    wanted = {(caller, *port) for port, known in callers(values).items() for caller in known if caller != "prometheus"}
    assert reached == wanted


def test_who_judges_and_tracks_reaches_a_reward_service_and_a_tracker() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]}
    objects = rendered((*SETS["cpu-demo"], "--set-json", f"collector.egress={json.dumps([rule])}"))
    policies = of_kind(objects, "NetworkPolicy").items()
    assert {name for name, policy in policies if rule in policy["spec"]["egress"]} == {"collector", "evaluation"}


def _name(peer: dict[str, Any]) -> str:
    labels = peer["podSelector"]["matchLabels"]
    return labels.get("app.kubernetes.io/component", labels["app.kubernetes.io/name"])


@BOTH
def test_every_variable_is_a_setting_that_the_service_accepts(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered(SETS[values])
    example = "agents" if values == "agents" else "sort16"
    file = RUN if of_kind(objects, "ConfigMap") else ROOT / f"examples/{example}/config.toml"
    for component, container in containers(objects):
        given = environment(container)
        if not given:
            continue
        with monkeypatch.context() as patched:
            for name, value in given.items():
                patched.setenv(name, value)
            settings = load(file)
        if component == "agent":
            assert settings.agent.url == "https://run-collector:8100"
            assert not settings.redis.url.get_secret_value()
        else:
            assert settings.redis.url.get_secret_value() == f"rediss://{component}@run-redis:6379/0"
            assert str(settings.redis.certificates) == SECRETS
        assert (settings.security.tokens is None) == (component == "evaluation" or container["name"] == "prepare")
        assert component != "trainer" or settings.trainer.ranks.count == max(1, gpus(objects, "trainer"))
        assert (settings.rollout.engine == "vllm") == (values == "8-gpus")


def test_what_prepare_writes_suits_the_replicas_of_the_evaluation_which_read_nothing_else() -> None:
    more = (
        "trainer.environment.AIS_ROLLOUT__MAX_MODEL_LEN=640",
        "trainer.environment.AIS_TRAINER__SAMPLES_PER_STEP=3",
        "evaluation.environment.AIS_ROLLOUT__MAX_MODEL_LEN=512",
    )
    objects = rendered((*SETS["8-gpus"], *(word for one in more for word in ("--set-string", one))))
    (prepare,) = (one for _, one in containers(objects) if one["name"] == "prepare")
    given = environment(prepare)
    assert not [name for name in given if name.startswith("AIS_SECURITY__")]
    assert (given["AIS_ROLLOUT__VLLM__MEMORY_FRACTION"], given["AIS_ROLLOUT__MAX_MODEL_LEN"]) == ("0.4", "512")
    assert (given["AIS_TRAINER__SAMPLES_PER_STEP"], given["AIS_TRAINER__RANKS__COUNT"]) == ("3", "4")


def gpus(objects: tuple[dict[str, Any], ...], component: str) -> int:
    (container,) = pods(objects)[component]["spec"]["containers"]
    return int(container["resources"]["limits"].get("nvidia.com/gpu", 0))


def test_the_set_for_eight_gpus_uses_eight() -> None:
    objects = rendered((*TRAINING, "--set", "rollout.autoscaling.enabled=false"))
    replicas = of_kind(objects, "Deployment")["rollout"]["spec"]["replicas"]
    assert of_kind(rendered(SETS["8-gpus"]), "ScaledObject")["rollout"]["spec"]["maxReplicaCount"] == replicas
    others = pods(objects).keys() - {"rollout"}
    assert replicas * gpus(objects, "rollout") + sum(gpus(objects, name) for name in others) == 8


def test_the_evaluation_that_comes_after_the_training_starts_no_trainer_again() -> None:
    before, after = (rendered(values) for values in (TRAINING, SETS["8-gpus"]))
    assert gpus(after, "evaluation") <= gpus(after, "trainer")
    assert of_kind(before, "Job").items() <= of_kind(after, "Job").items()
    assert {name.rpartition("-")[0] for name in of_kind(after, "Job") - of_kind(before, "Job").keys()} == {"evaluation"}


@BOTH
def test_every_command_is_one_of_ours_and_every_probe_asks_what_answers_strangers(values: str) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for component, container in containers(rendered(SETS[values])):
        if component == "redis":
            continue
        if "args" in container:
            assert container["args"][0] in known
        else:
            shell = container["command"][-1]
            assert set(re.findall(r"\bais (\w+)", shell)) <= known
            assert shlex.split(shell)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                program, path, address, asked = container[probe]["exec"]["command"]
                assert (program, path) == ("python", "/usr/local/bin/probe.py")
                assert HTTP["GET", asked] is None
                assert address == f"127.0.0.1:{container['ports'][0]['containerPort']}"


@BOTH
def test_each_service_mounts_its_own_secrets_and_finds_all_its_files_there(values: str) -> None:
    objects = rendered(SETS[values])
    for component, pod in pods(objects).items():
        (secret,) = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        assert secret["secretName"] == f"run-{component}"
        assert secret["defaultMode"] & 0o007 == 0  # else the services refuse it
        assert component in HOLDERS
        made = {path.name for path in (secrets() / component).iterdir()}
        used = set(re.findall(rf"{SECRETS}/([\w.]+)", json.dumps(pod)))
        assert used <= made
        assert component in ("agent", "evaluation") or used  # the others name files; these a directory alone


def test_prometheus_shows_its_own_certificate_and_asks_each_service_for_its_name() -> None:
    monitors = of_kind(rendered(MONITORED), "ServiceMonitor")
    assert monitors.keys() == {"rollout", "trainer", "collector"}
    made = {path.name for path in (secrets() / "prometheus").iterdir()}
    for service, monitor in monitors.items():
        (endpoint,) = monitor["spec"]["endpoints"]
        tls = endpoint["tlsConfig"]
        named = [endpoint["authorization"]["credentials"], tls["ca"]["secret"], tls["cert"]["secret"], tls["keySecret"]]
        assert {one["name"] for one in named} == {"run-prometheus"}
        assert {one["key"] for one in named} == {"metrics.token", "ca.crt", "tls.crt", "tls.key"} <= made
        assert (endpoint["scheme"], tls["serverName"]) == ("https", service)
        selected = of_kind(rendered(MONITORED), "Service")[service]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= selected.items()
        assert selected[monitor["spec"]["jobLabel"]] == service  # as the rules ask for it


def test_alerts_and_recordings_are_those_of_the_repository() -> None:
    rules = of_kind(rendered(MONITORED), "PrometheusRule")
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "deploy/prometheus/rules").glob("*.yml")}
    assert {name: one["spec"] for name, one in rules.items()} == files
    assert (ROOT / "deploy/kubernetes/rules").resolve() == ROOT / "deploy/prometheus/rules"  # one copy


@BOTH
def test_a_replica_may_drain_before_it_is_killed(values: str) -> None:
    pod = pods(rendered(SETS[values]))["rollout"]["spec"]
    drain = float(environment(pod["containers"][0])["AIS_ROLLOUT__DRAIN_SECONDS"])
    assert drain + STOP_SECONDS + 1 + STOP_GRACE_SECONDS + 15 <= pod["terminationGracePeriodSeconds"]


@BOTH
def test_only_what_there_are_several_of_and_the_evaluation_may_be_put_off_for_what_a_run_has_once(values: str) -> None:
    objects = rendered(SETS[values])
    classes = of_kind(objects, "PriorityClass")
    priority = {
        name: classes[pod["spec"]["priorityClassName"].removeprefix("run-")]["value"]
        for name, pod in pods(objects).items()
    }
    last = {name for name, value in priority.items() if value == min(priority.values())}
    assert last == {"rollout", "evaluation", *({"agent"} & priority.keys())}
    spread = pods(objects)["rollout"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname"]


def test_a_job_is_another_one_when_its_pod_changes_and_stays_when_replicas_are_added() -> None:
    def jobs(*more: str) -> set[str]:
        return set(of_kind(rendered((*SETS["cpu-demo"], *more)), "Job"))

    before = jobs()
    assert jobs("--set", "rollout.replicas=3") == before
    changed = jobs("--set-string", "trainer.environment.AIS_TRAINER__SAMPLES_PER_STEP=3")
    assert {name.rpartition("-")[0] for name in changed - before} == {"trainer"}
    assert len(jobs("--set-string", "run.environment.AIS_RUN__STEPS=3") & before) == 0


def test_a_new_version_of_the_chart_changes_nothing_in_a_job(tmp_path: Path) -> None:
    def templates(chart: Path) -> dict[str, Any]:
        return {name: job["spec"] for name, job in of_kind(rendered(SETS["cpu-demo"], chart=chart), "Job").items()}

    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    said = (CHART / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"^version: .*", "version: 99.0.0", said, flags=re.MULTILINE))
    assert templates(newer) == templates(CHART)


def test_an_example_finds_a_model_on_the_claim_where_it_looks_for_it(tmp_path: Path) -> None:
    write_beginning(examples_directory(), "smollm2", tmp_path / "run")
    model = load(tmp_path / "run/config.toml").run.model
    wanted = f"/etc/ais/example/{model.relative_to(tmp_path).parent}"
    objects = rendered((*SETS["cpu-demo"], "--set", "run.example=smollm2", "--set", "models.claim=models"))
    for component, container in containers(objects):
        mounts = {one["mountPath"] for one in container["volumeMounts"] if one["name"] == "models"}
        if component == "redis" or container["name"] in ("example", "wait"):
            assert not mounts
        else:
            assert mounts == {"/etc/ais/models", wanted}, component


def test_redis_keeps_what_it_answers_for_as_in_compose() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["command"]
    (container,) = pods(rendered(SETS["cpu-demo"]))["redis"]["spec"]["containers"]
    there = container["command"] + [word for word in container["args"] if word not in ("--dir", "/data")]
    size = compose.index("--maxmemory") + 1  # each has its own
    assert there[:size] + there[size + 1 :] == compose[:size] + compose[size + 1 :]


@BOTH
def test_redis_refuses_what_is_new_before_its_container_is_killed(values: str) -> None:
    (container,) = pods(rendered(SETS[values]))["redis"]["spec"]["containers"]
    units = {"mb": 2**20, "gb": 2**30, "Mi": 2**20, "Gi": 2**30}
    told = container["args"][container["args"].index("--maxmemory") + 1]
    limit, most = (int(size[:-2]) * units[size[-2:]] for size in (container["resources"]["limits"]["memory"], told))
    assert 0.5 * limit < most < 0.8 * limit
