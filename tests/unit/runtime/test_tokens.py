"""Tokens in files: who may read them, how they change, and that nothing shows them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ais.runtime.process import UnavailableError
from ais.runtime.security.door import Door
from ais.runtime.security.keyring import Credential
from ais.runtime.security.refusals import Refusal
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import TokenFile, make_tokens, new_token, token_path
from ais.runtime.settings import SettingsError


def written(path: Path, *tokens: str) -> Path:
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def bearer(token: str) -> str:
    return f"Bearer {token.strip()}"


def test_a_run_gets_a_random_token_for_each_role_that_only_its_owner_can_read(tmp_path: Path) -> None:
    make_tokens(tmp_path / "one")
    make_tokens(tmp_path / "two")
    files = [path for name in ("one", "two") for path in sorted((tmp_path / name).iterdir())]
    assert [path.name for path in files[:4]] == [f"{role}.token" for role in sorted(Role)]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("one", "two")} == {0o700}
    assert len({path.read_text() for path in files}) == 8


def test_services_that_start_at_once_agree_on_the_tokens_and_leave_nothing_else(tmp_path: Path) -> None:
    def make(_number: int) -> str:
        make_tokens(tmp_path / "run/tokens")
        return token_path(tmp_path / "run/tokens", Role.TRAINER).read_text()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(make, range(32)))) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokens"]


def test_tokens_that_are_there_are_never_replaced(tmp_path: Path) -> None:
    make_tokens(tmp_path / "tokens")
    before = token_path(tmp_path / "tokens", Role.METRICS).read_text()
    make_tokens(tmp_path / "tokens")
    assert token_path(tmp_path / "tokens", Role.METRICS).read_text() == before


def test_two_tokens_are_valid_at_once_and_a_changed_file_counts_without_a_restart(tmp_path: Path) -> None:
    old, new = new_token().strip(), new_token().strip()
    file = TokenFile(written(tmp_path / "collector.token", old))
    door, credential = Door({Role.COLLECTOR: file}), Credential(file)
    allowed = frozenset({Role.COLLECTOR})
    assert door.refusal(bearer(new), allowed) is Refusal.WRONG_TOKEN
    written(tmp_path / "collector.token", old, new)
    assert [door.refusal(bearer(token), allowed) for token in (old, new)] == [None, None]
    assert credential.headers() == {"authorization": bearer(old)}
    written(tmp_path / "collector.token", new)
    assert door.refusal(bearer(old), allowed) is Refusal.WRONG_TOKEN
    assert credential.metadata() == (("authorization", bearer(new)),)


@pytest.mark.parametrize("damage", ["removed", "emptied", "open to others"])
def test_a_file_that_becomes_unusable_leaves_the_tokens_as_they_were(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = new_token().strip()
    path = written(tmp_path / "trainer.token", token)
    file = TokenFile(path)
    if damage == "removed":
        path.unlink()
    elif damage == "emptied":
        path.write_text("")
    else:
        path.chmod(0o604)
    with caplog.at_level(logging.WARNING):
        assert [file.tokens(), file.tokens()] == [(token.encode(),)] * 2
    assert len(caplog.records) == 1
    assert token not in caplog.text


@pytest.mark.parametrize(("mode", "usable"), [(0o600, True), (0o440, True), (0o604, False), (0o666, False)])
def test_a_token_that_other_users_can_read_is_refused(tmp_path: Path, mode: int, usable: bool) -> None:
    token = new_token()
    path = written(tmp_path / "trainer.token", token.strip())
    path.chmod(mode)
    if usable:
        assert len(TokenFile(path).tokens()) == 1
        return
    with pytest.raises(SettingsError, match=r"other users can get at .*chmod o=") as error:
        TokenFile(path)
    assert token.strip() not in str(error.value)


@pytest.mark.parametrize("content", ["", "\n\n", "short\n", "has a space in the middle\n", "0123456789abcdef\nü" * 20])
def test_a_file_without_usable_tokens_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trainer.token"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="expected one token a line") as error:
        TokenFile(path)
    assert not [line for line in content.split("\n") if line and line in str(error.value)]


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"absent\.token.*`ais secrets DIR`"):
        TokenFile(tmp_path / "absent.token")


def test_nothing_of_a_token_is_in_what_python_prints(tmp_path: Path) -> None:
    token = new_token().strip()
    file = TokenFile(written(tmp_path / "trainer.token", token))
    assert not [one for one in (file, Credential(file), Door({Role.TRAINER: file})) if token in repr(one)]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer \x00", "Bearer " + "x" * 100_000]
)
def test_what_is_no_token_is_refused(tmp_path: Path, header: str | None) -> None:
    door = Door({Role.TRAINER: TokenFile(written(tmp_path / "t.token", new_token().strip()))})
    refusal = door.refusal(header, frozenset({Role.TRAINER}))
    assert refusal is (Refusal.WRONG_TOKEN if header else Refusal.NO_TOKEN)
    assert not door.knows(header)
    assert door.refusal(header, None) is None


def test_a_run_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be made for the run's tokens"):
        make_tokens(tmp_path / "file/tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
