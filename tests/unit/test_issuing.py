"""`ais secrets`: each service has what it needs and nothing else; nothing that is there is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ais.cli import app
from ais.issuing import ACL, EXPORTED, EXPORTER, HOLDERS, PASSWORD, PASSWORDS, issue
from ais.runtime.exits import UnavailableError
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import TokenFile, token_path
from ais.runtime.settings import SettingsError

CERTIFICATES = (AUTHORITY, CERTIFICATE, KEY)


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text(encoding="utf-8")
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_command_tells_what_it_made_and_shows_no_secret(tmp_path: Path) -> None:
    first, second = (CliRunner().invoke(app, ["secrets", str(tmp_path / "made")]) for _time in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "trainer.token" in first.output.replace("\n", "")
    assert "trainer.token" not in second.output.replace("\n", "")
    for content in contents(tmp_path / "made").values():
        assert content.strip() not in first.output


def test_each_service_has_a_directory_with_its_own_secrets_alone(tmp_path: Path) -> None:
    made = {str(path.relative_to(tmp_path / "secrets")) for path in issue(tmp_path / "secrets")}
    assert made == set(contents(tmp_path / "secrets"))
    assert {path for path in made if path.startswith("trainer/")} == {
        "trainer/trainer.token",
        "trainer/metrics.token",
        "trainer/redis.password",
        *(f"trainer/{name}" for name in CERTIFICATES),
    }
    for service, secret in (("prometheus", "metrics.token"), ("redis", "users.acl")):
        own = {path for path in made if path.startswith(f"{service}/")}
        assert own == {f"{service}/{name}" for name in (secret, *CERTIFICATES)}


def test_a_role_has_one_token_everywhere_and_each_user_of_redis_a_password_of_its_own(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    for role in Role:
        holders = [service for service, holder in HOLDERS.items() if role in holder.roles]
        assert len(holders) > 1
        assert len({TokenFile(token_path(tmp_path / service, role)).tokens() for service in holders}) == 1
    passwords = [path.read_text(encoding="utf-8").strip() for path in tmp_path.glob(f"*/{PASSWORD}")]
    assert len(set(passwords)) == len(passwords) == 5
    assert not [password for password in passwords if password in (tmp_path / ACL).read_text(encoding="utf-8")]


def test_the_exporter_is_given_its_password_as_it_takes_it_also_while_it_is_changed(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    password = tmp_path / EXPORTER / PASSWORD
    assert json.loads((tmp_path / PASSWORDS).read_text()) == {EXPORTED: password.read_text().strip()}
    password.write_text("the-next-password-of-it\n" + password.read_text())
    assert list(issue(tmp_path)) == [tmp_path / ACL, tmp_path / PASSWORDS]
    assert json.loads((tmp_path / PASSWORDS).read_text()) == {EXPORTED: "the-next-password-of-it"}


def test_prometheus_is_given_what_a_header_takes_as_it_is_also_while_a_token_is_changed(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    old, new = (
        token_path(tmp_path / "prometheus", Role.METRICS).read_text(encoding="utf-8"),
        "the-next-token-of-metrics",
    )
    assert old.split() == [old]
    for service in ("collector", "trainer", "rollout"):
        token_path(tmp_path / service, Role.METRICS).write_text(f"{new}\n{old}\n", encoding="utf-8")
    token_path(tmp_path / "prometheus", Role.METRICS).unlink()
    assert list(issue(tmp_path)) == [token_path(tmp_path / "prometheus", Role.METRICS)]
    assert token_path(tmp_path / "prometheus", Role.METRICS).read_text(encoding="utf-8") == new


def test_other_users_get_at_nothing(tmp_path: Path) -> None:
    assert list(issue(tmp_path / "secrets"))
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").rglob("*")} <= {0o700, 0o640, 0o600}


def test_what_is_missing_is_made_again_to_fit_and_the_rest_stays(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    before = contents(tmp_path)
    assert list(issue(tmp_path)) == []
    token_path(tmp_path / "rollout", Role.TRAINER).unlink()
    (tmp_path / ACL).unlink()
    assert list(issue(tmp_path)) == [token_path(tmp_path / "rollout", Role.TRAINER), tmp_path / ACL]
    assert contents(tmp_path) == before


def test_the_acl_follows_a_password_that_is_being_changed(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    old = (tmp_path / ACL).read_text(encoding="utf-8")
    with (tmp_path / "trainer" / PASSWORD).open("a", encoding="utf-8") as file:
        file.write("the-next-password-of-the-trainer\n")
    assert list(issue(tmp_path)) == [tmp_path / ACL]
    (before,) = (line for line in old.splitlines() if line.startswith("user trainer "))
    (after,) = (
        line for line in (tmp_path / ACL).read_text(encoding="utf-8").splitlines() if line.startswith("user trainer ")
    )
    assert [word for word in before.split() if word.startswith("#")] == [
        word for word in after.split() if word.startswith("#")
    ][:1]
    assert after.count(" #") == 2


def test_a_file_that_others_can_read_is_refused_and_so_is_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    assert list(issue(tmp_path / "one"))
    token_path(tmp_path / "one" / "trainer", Role.TRAINER).chmod(0o644)
    with pytest.raises(SettingsError, match="other users can get at"):
        list(issue(tmp_path / "one"))
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="cannot be written"):
        list(issue(tmp_path / "file"))
