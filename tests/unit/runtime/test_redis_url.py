"""What may stand in a Redis URL, and that its password is shown nowhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ais.runtime.logging import LoggingSettings, configure_logging
from ais.runtime.network.redis_url import MASK, RedisServer, RedisUrl, without_passwords
from ais.runtime.reading import read_settings
from ais.runtime.settings import RedisSettings, SettingsError
from ais.settings import Settings, save, to_toml

PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=4)
"""Any text but spaces and control characters, which a URL writes as %20 and the like."""
SERVERS = [
    "redis://{}localhost",
    "redis://{}[::1]:6379/0",
    "rediss://{}r.example:1/5?ssl_cert_reqs=none",
    "unix://{}/r.sock",
]


@given(PASSWORDS, st.sampled_from(SERVERS), st.sampled_from(["", "user"]))
@example("p@ss/w#rd?", "redis://{}h:1/0", "")
@example("6379", "redis://{}h", "user")
@example("a=b&c=d", "unix://{}/r.sock?db=1", "user")
def test_a_password_is_read_as_it_is_written_raw_or_escaped(password: str, server: str, user: str) -> None:
    assume(password != MASK)
    for written in (password.replace("%", "%25"), quote(password, safe="")):
        parsed = RedisServer.parse(server.format(f"{user}:{written}@"))
        assert (parsed.username, parsed.password) == (user or None, password)
        assert parsed.url.startswith(server.partition("{}")[0])
        assert "@" not in parsed.url


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://h/0?client_name=a@b", "redis://h/0?client_name=a@b"),
        ("unix:///tmp/a@b.sock", "unix:///tmp/a@b.sock"),
        ("redis://user@h", "redis://h"),
        ("redis://", "redis://"),
    ],
)
def test_an_at_sign_elsewhere_begins_no_password(url: str, server: str) -> None:
    assert RedisServer.parse(url) == RedisServer(server, "user" if "user@" in url else None, None)


@pytest.mark.parametrize(
    "url",
    [
        "http://:hidden@h",
        "redis:/:hidden@h",
        "redis://:hidden@h:port",
        "redis://:hidden@h:99999",
        "redis://:hidden@h/zero",
        "redis://:hid den@h",
        "redis://:hidden@::1",
        "redis://:hidden@h?decode_responses=yes",
        "redis://:hidden@h?password=hidden",
        "redis://:hidden@h?ssl_ca_certs=x",
        "unix://:hidden@h",
        "redis://h:hidden",
        f"redis://:{MASK}@h",
    ],
)
def test_what_cannot_be_used_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match=r"setting redis\.url: ") as refused:
        read_settings(Settings, None, [f"redis.url={url}"], {})
    assert "hidden" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "override",
    ["redis=redis://:hidden@h", "redis.url.deeper=hidden", "redis://:hidden@h", "run.name=redis://:hidden@h"],
)
def test_a_url_in_the_wrong_place_is_not_repeated_either(override: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(Settings, None, [override], {})
    assert "hidden" not in str(refused.value)


def test_a_long_url_is_masked_before_it_is_cut() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(Settings, None, [f"run.steps=redis://:{'hidden' * 20}@h"], {})
    assert "hidden" not in str(refused.value)


@given(PASSWORDS.map(lambda text: f"<{text}>"), st.sampled_from(SERVERS))
def test_no_way_of_showing_settings_shows_the_password(password: str, server: str) -> None:
    url = server.format(f"user:{password.replace('%', '%25')}@")
    settings = Settings(redis=RedisSettings.model_validate({"url": url}))
    shown = (repr(settings), str(settings.redis.url), settings.model_dump_json(), to_toml(settings))
    for text in (*shown, without_passwords(f"({url!r}, 1)"), without_passwords(json.dumps({"url": url}))):
        assert password not in text
        assert f"user:{MASK}@" in text


def test_masking_leaves_other_text_alone() -> None:
    for text in ("redis://h:6379/0 by a@b", "unix:///tmp/a@b", "http://u:p@h", "redis://user@h", ""):
        assert without_passwords(text) == text


def test_saved_settings_read_back_with_the_password_and_are_the_owners_alone(tmp_path: Path) -> None:
    settings = Settings(redis=RedisSettings.model_validate({"url": "redis://:p@s/s#@h:1/0"}))
    save(settings, tmp_path / "config.toml")
    assert (tmp_path / "config.toml").stat().st_mode & 0o777 == 0o600
    assert read_settings(Settings, tmp_path / "config.toml", (), {}).redis == settings.redis


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_line_masks_passwords_wherever_they_stand(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = "redis://:hid/den@h:1/0"
    configure_logging("test", LoggingSettings.model_validate({"format": form}))
    try:
        raise RuntimeError(f"cannot reach {url}")
    except RuntimeError:
        logging.getLogger("test").exception("at %s", url, extra={"url": url, "urls": [url], "long": "x" * 990 + url})
    logged = capsys.readouterr().err
    assert "den" not in logged
    assert logged.count(MASK) >= 4


def test_an_empty_url_is_false() -> None:
    assert not RedisUrl("")
    assert RedisUrl("redis://h")
