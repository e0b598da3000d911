"""The certificates that `ais secrets` makes, and what a service does with files that cannot be used."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from ais.cli import app
from ais.issuing import AUTHORITY_OF_ALL, HOLDERS, issue
from ais.issuing.authority import LIFE, Authority, Issued, Use, ends_at
from ais.runtime.exits import UnavailableError
from ais.runtime.metrics.registry import service_registry
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY, Certificates
from ais.runtime.settings import SettingsError
from tests.support.access.deployment import valid, written

AGES_AGO = datetime.now(UTC) - timedelta(days=3000)
"""An authority that was made then ends before all others."""


def certificate_of(directory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / CERTIFICATE).read_bytes())


def test_each_service_has_a_certificate_for_what_it_does_under_its_own_name(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    authority = x509.load_pem_x509_certificate((tmp_path / AUTHORITY_OF_ALL / AUTHORITY).read_bytes())
    for service, holder in HOLDERS.items():
        certificate = certificate_of(tmp_path / service)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [service]
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usage) == {use.value for use in holder.uses}
        Certificates(tmp_path / service)


def test_only_the_owner_reads_a_key_but_where_the_service_runs_as_somebody_else(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    modes = {key.parent.name: key.stat().st_mode & 0o777 for key in tmp_path.glob(f"*/{KEY}")}
    others = {"redis", "redis-exporter", "prometheus"}
    assert {name for name, mode in modes.items() if mode == 0o640} == others
    assert {mode for name, mode in modes.items() if name not in others} == {0o600}
    assert not list(tmp_path.glob(f"[!a]*/{AUTHORITY_OF_ALL}*"))


def test_a_certificate_is_replaced_only_when_that_is_asked_for_and_its_end_is_near(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    near = Authority.new()  # of nobody here: that is not looked at
    ending = near.issue("trainer", *Use, now=datetime.now(UTC) - LIFE + timedelta(days=20))
    (tmp_path / "trainer" / CERTIFICATE).write_text(ending.certificate)
    assert list(issue(tmp_path)) == []
    assert list(issue(tmp_path, timedelta(days=10))) == []
    renewed = CliRunner().invoke(app, ["secrets", str(tmp_path), "--renew", "30"])
    assert renewed.exit_code == 0
    told = renewed.output.replace("\n", "")
    assert f"trainer/{CERTIFICATE}" in told
    assert f"collector/{CERTIFICATE}" not in told
    assert ends_at((tmp_path / "trainer" / CERTIFICATE).read_text()) > datetime.now(UTC) + LIFE - timedelta(days=1)
    Certificates(tmp_path / "trainer")


def test_all_are_renewed_by_one_authority_whose_key_may_be_kept_elsewhere_meanwhile(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    kept = (tmp_path / AUTHORITY_OF_ALL).rename(tmp_path / "kept elsewhere")
    assert list(issue(tmp_path)) == []
    with pytest.raises(SettingsError, match="put it back"):
        list(issue(tmp_path, LIFE))
    kept.rename(tmp_path / AUTHORITY_OF_ALL)
    assert len(list(issue(tmp_path, LIFE))) == 2 * len(HOLDERS)


def test_directories_that_are_there_already_are_filled(tmp_path: Path) -> None:
    """As volumes are."""
    for name in (AUTHORITY_OF_ALL, *HOLDERS):
        (tmp_path / name).mkdir()
    assert list(issue(tmp_path))
    Certificates(tmp_path / "trainer")


def test_an_authority_that_is_damaged_is_told(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    (tmp_path / AUTHORITY_OF_ALL / KEY).write_text(Authority.new().issued.key)
    with pytest.raises(SettingsError, match="belongs to the certificate"):
        list(issue(tmp_path, LIFE))


@pytest.mark.parametrize("file", [AUTHORITY, CERTIFICATE, KEY])
def test_a_file_that_cannot_be_used_is_told_at_start(tmp_path: Path, file: str) -> None:
    written(tmp_path, valid("trainer"))
    (tmp_path / file).write_text("-----BEGIN NONSENSE-----")
    with pytest.raises(SettingsError, match="cannot be used"):
        Certificates(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UnavailableError, match=r"cannot be read: .* `ais secrets DIR`"):
        Certificates(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (written(tmp_path, valid("trainer")) / KEY).chmod(0o644)
    with pytest.raises(SettingsError, match=r"other users can get at .*tls\.key"):
        Certificates(tmp_path)


def test_an_authority_that_a_service_does_not_trust_signs_nothing(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    before = {path: path.read_text() for path in tmp_path.glob("*/*")}
    other = Authority.new().issued
    (tmp_path / AUTHORITY_OF_ALL / AUTHORITY).write_text(other.certificate)
    (tmp_path / AUTHORITY_OF_ALL / KEY).write_text(other.key)
    refused = CliRunner().invoke(app, ["secrets", str(tmp_path), "--renew", "3650"])
    assert refused.exit_code == 2
    assert "does not have the authority" in refused.output.replace("\n", " ")
    after = {path: path.read_text() for path in tmp_path.glob("*/*") if path.parent.name != AUTHORITY_OF_ALL}
    assert after.items() <= before.items()
    for service in HOLDERS:  # as docs/security.md says
        with (tmp_path / service / AUTHORITY).open("a") as trusted:
            trusted.write(other.certificate)
    assert len(list(issue(tmp_path, LIFE))) == 2 * len(HOLDERS)
    certificate_of(tmp_path / "trainer").verify_directly_issued_by(
        x509.load_pem_x509_certificate(other.certificate.encode())
    )


def test_where_one_service_trusts_another_authority_the_others_are_renewed_by_the_one_that_they_know(
    tmp_path: Path,
) -> None:
    assert list(issue(tmp_path))
    (tmp_path / "redis" / AUTHORITY).write_text(Authority.new().issued.certificate)
    for file in (KEY, CERTIFICATE):
        (tmp_path / "trainer" / file).unlink()
    assert list(issue(tmp_path)) == [tmp_path / "trainer" / KEY, tmp_path / "trainer" / CERTIFICATE]
    ending = authority_in(tmp_path).issue("trainer", *Use, now=datetime.now(UTC) - LIFE + timedelta(days=20))
    written(tmp_path / "trainer", ending, authority_in(tmp_path))
    assert list(issue(tmp_path, timedelta(days=30))) == [tmp_path / "trainer" / KEY, tmp_path / "trainer" / CERTIFICATE]


def test_the_certificate_of_another_authority_is_replaced_when_all_know_the_new_one(tmp_path: Path) -> None:
    assert list(issue(tmp_path))
    ending, old = Authority.new(), certificate_of(tmp_path / "trainer")
    other = ending.issue("trainer", *Use, now=datetime.now(UTC) - LIFE + timedelta(days=20))
    written(tmp_path / "trainer", other, authority_in(tmp_path))
    (tmp_path / "redis" / AUTHORITY).write_text(ending.issued.certificate)
    with pytest.raises(SettingsError, match=r"redis/ca\.crt does not have the authority"):
        list(issue(tmp_path, timedelta(days=30)))
    (tmp_path / "redis" / AUTHORITY).write_text(authority_in(tmp_path).issued.certificate)
    assert list(issue(tmp_path, timedelta(days=30)))
    assert certificate_of(tmp_path / "trainer").issuer == old.issuer


def authority_in(directory: Path) -> Authority:
    place = directory / AUTHORITY_OF_ALL
    return Authority(Issued((place / AUTHORITY).read_text(), (place / KEY).read_text()))


def expiry_of(subject: str) -> float | None:
    registry = service_registry("trainer")
    return registry.get_sample_value("ais_certificate_not_after_timestamp_seconds", {"subject": subject})


def test_when_certificates_expire_is_a_metric_of_every_service(tmp_path: Path) -> None:
    ours, signer = datetime.now(UTC) + timedelta(days=5), Authority.new(AGES_AGO)
    issued = signer.issue("one that ends", *Use, life=timedelta(days=5))
    kept = Certificates(written(tmp_path, issued, signer))
    assert expiry_of("one that ends") == pytest.approx(ours.timestamp(), abs=60)
    assert expiry_of("AIS authority") == ends_at(signer.issued.certificate).timestamp()
    assert kept.pem().certificate == issued.certificate.encode()


def test_while_an_authority_takes_over_the_one_that_ends_first_is_shown(tmp_path: Path) -> None:
    old, new = Authority.new(AGES_AGO), Authority.new()
    held = Certificates(written(tmp_path, old.issue("taking over", *Use), old))
    for certificates in ((old, new), (new, old)):
        (tmp_path / AUTHORITY).write_text("".join(one.issued.certificate for one in certificates))
        held.pem()
        assert expiry_of("AIS authority") == ends_at(old.issued.certificate).timestamp()
    written(tmp_path, new.issue("taken over", *Use), new)
    held.pem()
    assert (expiry_of("AIS authority") or 0.0) > ends_at(old.issued.certificate).timestamp()
    assert (expiry_of("taking over"), expiry_of("taken over") is None) == (None, False)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """In memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(to_server, to_client, server_side=True), client.wrap_bio(to_client, to_server)]
    for _flight in range(3):
        for end in reversed(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert all(end.version() == "TLSv1.3" for end in ends)


@pytest.mark.parametrize("file", [KEY, CERTIFICATE, AUTHORITY])
def test_a_pair_that_is_half_renewed_breaks_no_connection(tmp_path: Path, file: str) -> None:
    """Also by contexts that have not been used yet, such as those of the next push."""
    held = Certificates(written(tmp_path, valid("trainer")))
    renewed = valid("trainer")
    used = held.server()
    handshake(held.client("trainer"), used)
    half = {KEY: renewed.key, CERTIFICATE: renewed.certificate, AUTHORITY: "half a file"}
    (tmp_path / file).write_text(half[file])
    handshake(held.client("trainer"), used)
    handshake(held.client("trainer"), held.server())
    assert held.change() == 0
    written(tmp_path, renewed)
    handshake(held.client("trainer"), used)
    assert (held.change(), held.pem().key) == (1, renewed.key.encode())
