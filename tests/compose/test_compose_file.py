"""Rules that the compose file, the Prometheus file and the demo settings must keep with one another."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ais.issuing import ACL, AUTHORITY_OF_ALL, EXPORTED, EXPORTER, HOLDERS, PASSWORD, PASSWORDS
from ais.issuing.authority import LIFE
from ais.rollout.generation_server import STOP_GRACE_SECONDS
from ais.runtime.network.http import STOP_SECONDS
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import token_path
from ais.settings import load
from tests.support.compose_stack import compose_command

OURS = ("rollout", "trainer", "collector", "evaluation")
SECRETS = "/etc/ais/secrets"


def environment_of(compose_file: dict[str, Any], service: str) -> dict[str, str]:
    """AIS_ variables that compose gives a service, without those it only passes on."""
    given = compose_file["services"][service]["environment"]
    return {name: str(value) for name, value in given.items() if value is not None}


def merged(repository: Path, override: str | None, **environment: str) -> dict[str, Any]:
    """What compose makes of its files. Fails when it says anything else."""
    if (command := compose_command()) is None:
        pytest.skip("there is neither the docker compose plug-in nor docker-compose")
    files = ["docker-compose.yml", *([f"deploy/{override}"] if override else [])]
    command = [*command, "--env-file", ".env.example", *(part for file in files for part in ("-f", file)), "config"]
    done = subprocess.run(
        command,
        cwd=repository,
        env=os.environ | {"AIS_ENV_FILE": ".env.example"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return yaml.safe_load(done.stdout)


def test_rollout_replicas_can_be_scaled(compose_file: dict[str, Any]) -> None:
    rollout = compose_file["services"]["rollout"]
    assert "container_name" not in rollout
    assert "ports" not in rollout


def test_a_replica_that_is_scaled_away_may_drain_before_it_is_killed(
    repository: Path, compose_file: dict[str, Any]
) -> None:
    grace = float(compose_file["services"]["rollout"]["stop_grace_period"].removesuffix("s"))
    servers_end_within = STOP_SECONDS + 1 + STOP_GRACE_SECONDS
    for example in sorted((repository / "examples").glob("*/config.toml")):
        assert load(example).rollout.drain_seconds + servers_end_within < grace, example


def test_the_image_is_built_from_all_that_the_wheel_contains(repository: Path) -> None:
    wheel = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = wheel["tool"]["hatch"]["build"]["targets"]["wheel"]
    sent = {line[1:] for line in (repository / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    assert {Path(path).parts[0] for path in (*wheel["packages"], *wheel["force-include"])} <= sent


def test_every_image_carries_the_bill_of_the_environment_and_of_the_packages_that_it_has(repository: Path) -> None:
    """`ais-vllm-cuda` is not built by the tests."""
    stages = re.split(r"^FROM (?=\S+ AS )", (repository / "deploy/Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    named = {stage.split(None, 3)[2]: stage for stage in stages[1:]}
    images = {name: stage for name, stage in named.items() if name.startswith("ais")}
    assert set(images) == {"ais", "ais-vllm-cpu", "ais-vllm-cuda"}
    listing = "dpkg-query --show >/usr/share/sbom/debian.txt"
    assert listing in named["base"]
    for name, stage in images.items():
        assert stage.startswith("base AS "), name
        assert ("apt-get install" in stage) == (listing in stage), name
        (environment,) = re.findall(r"^COPY --from=(\S*environment) /opt/ais /opt/ais$", stage, re.M)
        (bill,) = re.findall(r"^COPY --from=(\S+) /sbom /usr/share/sbom$", stage, re.M)
        assert named[bill].startswith(f"{environment} AS "), name
        assert "cyclonedx-py environment" in named[bill], name


@pytest.mark.parametrize("service", OURS)
def test_what_has_done_its_work_is_not_started_again_and_what_fails_is_not_for_ever(
    compose_file: dict[str, Any], service: str
) -> None:
    policy, times = compose_file["services"][service]["restart"].split(":")
    assert policy == "on-failure"
    assert int(times) > 0


@pytest.mark.parametrize("service", OURS)
def test_services_start_when_the_settings_are_checked_and_redis_answers(
    compose_file: dict[str, Any], service: str
) -> None:
    waits = {name: wait["condition"] for name, wait in compose_file["services"][service]["depends_on"].items()}
    assert waits == {"redis": "service_healthy", "prepare": "service_completed_successfully"}


def test_every_container_has_limits_and_no_more_rights_than_it_needs(compose_file: dict[str, Any]) -> None:
    for name, service in compose_file["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service.keys() >= {"cpus", "mem_limit", "pids_limit"}, name


def test_what_serves_others_has_a_health_check(repository: Path, compose_file: dict[str, Any]) -> None:
    assert "HEALTHCHECK" in (repository / "deploy/Dockerfile").read_text()  # of ours
    for name in ("redis", "prometheus", "grafana"):
        assert compose_file["services"][name]["healthcheck"]["test"]


def test_the_example_file_of_settings_names_all_that_the_stack_takes(repository: Path) -> None:
    files = [repository / "docker-compose.yml", *(repository / "deploy").glob("compose.*.yml")]
    taken = {name for file in files for name in re.findall(r"\$\{(\w+)[:}]", file.read_text(encoding="utf-8"))}
    lines = (repository / ".env.example").read_text(encoding="utf-8").splitlines()
    named = {match[1] for line in lines if (match := re.match(r"#?([A-Z_]+)=", line))}
    of_compose_and_services = {name for name in named if name.startswith(("COMPOSE_", "OTEL_")) or "__" in name}
    assert named - of_compose_and_services == taken


@pytest.mark.parametrize("override", [None, "compose.vllm.yml", "compose.gpu.yml"])
def test_compose_reads_the_files_without_a_warning(repository: Path, override: str | None) -> None:
    merged(repository, override)


def test_each_replica_has_a_gpu_of_its_own_and_all_else_in_common(repository: Path) -> None:
    services = merged(repository, "compose.gpu.yml", COMPOSE_PROFILES="replica-2,replica-3")["services"]

    def gpus(service: str) -> list[str]:
        (device,) = services[service]["deploy"]["resources"]["reservations"]["devices"]
        return device["device_ids"]

    first, *others = "rollout", "rollout-2", "rollout-3"
    assert [gpus(one) for one in ("trainer", first, *others)] == [["0"], ["1"], ["2"], ["3"]]
    own = {"build", "deploy", "networks", "profiles", "scale"}
    for other in others:
        left, right = ({k: v for k, v in services[one].items() if k not in own} for one in (first, other))
        assert left == right
        assert services[other]["networks"]["default"]["aliases"] == ["rollout"]  # where Prometheus looks for replicas


def test_the_services_accept_the_settings_that_compose_gives_them(
    repository: Path, compose_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("rollout", "trainer", "agent", "collector"):
        for name, value in environment_of(compose_file, service).items():
            monkeypatch.setenv(name, value)
    settings = load(repository / "examples/sort16/config.toml")
    assert settings.redis.url.get_secret_value() == "rediss://collector@redis:6379/0"
    assert settings.security.tokens == settings.redis.password_file.parent == Path(SECRETS)
    assert settings.security.certificates == settings.redis.certificates == Path(SECRETS)
    assert settings.agent.url == f"https://collector:{settings.collector.agents_port}"
    assert settings.collector.agents_host == "0.0.0.0"
    assert settings.rollout.host == settings.trainer.http_host == settings.collector.http_host == "0.0.0.0"


def test_each_service_has_its_own_secrets_and_nobody_elses(compose_file: dict[str, Any]) -> None:
    services = compose_file["services"]
    made = f"{services['secrets']['command'][1]}/"
    volumes = dict(volume.split(":")[:2] for volume in services["secrets"]["volumes"])
    assert volumes == {f"secrets-{service}": made + service for service in (*HOLDERS, AUTHORITY_OF_ALL)}
    assert str(ACL.parent) in HOLDERS
    for name, service in services.items():
        mounted = [volume for volume in service.get("volumes", []) if volume.startswith("secrets-")]
        own = [f"secrets-{name}:{SECRETS}:ro"] if f"secrets-{name}" in volumes else []
        assert name == "secrets" or mounted == own


def test_the_image_has_a_directory_of_our_users_for_the_secrets_of_each_service(repository: Path) -> None:
    """A volume that is mounted where the image has nothing belongs to root, and `secrets` cannot write there."""
    dockerfile = (repository / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"\bsecrets/([\w-]+)", dockerfile)) == {*HOLDERS, AUTHORITY_OF_ALL}


def test_a_machine_without_a_registry_starts_all_but_what_it_has_no_image_of(
    repository: Path, compose_file: dict[str, Any]
) -> None:
    script = (repository / "deploy/up.sh").read_text(encoding="utf-8")
    (named,) = re.findall(r"^ *services=\(([^)]+)\)$", script, re.M)
    (left_out,) = re.findall(r"^for service in ([^;]+);", script, re.M)
    always = {name for name, service in compose_file["services"].items() if "profiles" not in service}
    assert {*named.split(), *left_out.split()} == always


def test_each_service_is_its_own_user_of_redis_by_a_password_that_stands_nowhere(compose_file: dict[str, Any]) -> None:
    for name in OURS:
        given = environment_of(compose_file, name)
        assert given["AIS_REDIS__URL"] == f"rediss://{name}@redis:6379/0"
        assert given["AIS_REDIS__CERTIFICATES"] == SECRETS
        assert given["AIS_REDIS__PASSWORD_FILE"] == f"{SECRETS}/{PASSWORD}"


def test_the_exporter_asks_redis_as_its_own_user_and_shows_others_nothing_without_a_certificate(
    compose_file: dict[str, Any], prometheus_file: dict[str, Any]
) -> None:
    told = compose_file["services"][EXPORTER]["command"]
    options = dict(zip([one.partition("=")[0] for one in told], [*told[1:], ""], strict=True))
    assert (options["-redis.addr"], options["-redis.user"]) == (EXPORTED, EXPORTER)
    assert options["-redis.password-file"] == f"{SECRETS}/{PASSWORDS.name}"
    assert options["-tls-server-ca-cert-file"] == options["-tls-ca-cert-file"] == f"{SECRETS}/{AUTHORITY}"
    (job,) = (job for job in prometheus_file["scrape_configs"] if job["job_name"] == EXPORTER)
    assert job["static_configs"] == [{"targets": [f"{EXPORTER}:9121"]}]


def test_redis_refuses_what_is_new_before_its_container_is_killed(compose_file: dict[str, Any]) -> None:
    redis = compose_file["services"]["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert (options["--maxmemory"], redis["mem_limit"]) == ("768mb", "1g")


def test_redis_and_prometheus_read_their_secrets_as_members_of_the_group_that_owns_them(
    repository: Path, compose_file: dict[str, Any], prometheus_file: dict[str, Any]
) -> None:
    services = compose_file["services"]
    user = re.search(r"useradd --uid (\d+)", (repository / "deploy/Dockerfile").read_text())
    assert user
    others = (service for service, holder in HOLDERS.items() if not holder.ours)
    assert [services[service]["group_add"] for service in others] == [[user[1]]] * 3
    assert services["redis"]["command"][-2:] == ["--aclfile", f"{SECRETS}/{ACL.name}"]
    for job in prometheus_file["scrape_configs"]:
        if job["job_name"] != "prometheus":
            asks_for_tokens = job["job_name"] != EXPORTER
            assert ("authorization" in job) == asks_for_tokens
            assert not asks_for_tokens or job["authorization"] == {
                "credentials_file": f"{SECRETS}/{token_path(Path(), Role.METRICS)}"
            }
            files = {"ca_file": AUTHORITY, "cert_file": CERTIFICATE, "key_file": KEY}
            own = {name: f"{SECRETS}/{file}" for name, file in files.items()}
            assert job["tls_config"] == own | {"server_name": job["job_name"]}
            assert job["scheme"] == "https"


def test_redis_listens_by_tls_alone_and_asks_for_a_certificate(compose_file: dict[str, Any]) -> None:
    command = compose_file["services"]["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--port"], options["--tls-port"]) == ("0", "6379")
    assert options.get("--tls-auth-clients", "yes") == "yes"
    names = {"--tls-ca-cert-file": AUTHORITY, "--tls-cert-file": CERTIFICATE, "--tls-key-file": KEY}
    assert {name: options[name] for name in names} == {name: f"{SECRETS}/{file}" for name, file in names.items()}


def test_certificates_are_renewed_by_a_stack_that_comes_up_before_they_end(compose_file: dict[str, Any]) -> None:
    command = compose_file["services"]["secrets"]["command"]
    assert command[2] == "--renew"
    assert 1 <= int(command[3]) < LIFE.days / 2


def test_every_service_is_scraped_where_it_listens(
    prometheus_file: dict[str, Any], compose_file: dict[str, Any]
) -> None:
    jobs = {job["job_name"]: job for job in prometheus_file["scrape_configs"]}
    (replicas,) = jobs["rollout"]["dns_sd_configs"]
    assert replicas["names"] == ["rollout"]
    assert str(replicas["port"]) == environment_of(compose_file, "rollout")["AIS_ROLLOUT__HTTP_PORT"]
    for name in ("collector", "trainer"):
        port = environment_of(compose_file, name)[f"AIS_{name.upper()}__HTTP_PORT"]
        assert jobs[name]["static_configs"] == [{"targets": [f"{name}:{port}"]}]


def test_the_image_is_probed_where_every_service_listens(repository: Path, compose_file: dict[str, Any]) -> None:
    probe = re.search(r'probe\.py", "127\.0\.0\.1:(\d+)"', (repository / "deploy/Dockerfile").read_text())
    assert probe
    for name in ("rollout", "trainer", "collector"):
        assert environment_of(compose_file, name)[f"AIS_{name.upper()}__HTTP_PORT"] == probe[1]


def test_what_must_outlive_a_container_is_on_a_volume(compose_file: dict[str, Any]) -> None:
    services = compose_file["services"]
    assert "redis:/data" in services["redis"]["volumes"]
    runs = environment_of(compose_file, "trainer")["AIS_RUN__DIRECTORY"]
    assert f"runs:{runs}" in services["trainer"]["volumes"]
    assert set(compose_file["volumes"]) >= {"redis", "runs", "prometheus"}


def test_ports_are_published_on_loopback_only(compose_file: dict[str, Any]) -> None:
    for name, service in compose_file["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
