"""The certificate authority of a deployment: it says which service somebody is, not on which machine.

A certificate holds one name, that of a service. Replicas come and go under names of their machines that nobody knows
beforehand, so whoever calls one asks for the service's name: ais.runtime.security.certificates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = timedelta(days=365)
"""How long a certificate is valid."""
AUTHORITY_LIFE = timedelta(days=3650)
SLOW_CLOCKS = timedelta(hours=1)
"""A certificate is valid this long before it was made, for machines whose clocks are behind."""


class Use(Enum):
    """What a certificate may be presented for."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM."""

    certificate: str
    key: str


class Authority:
    """Signs certificates."""

    def __init__(self, issued: Issued) -> None:
        """Raises ValueError unless that is an authority's certificate with its key (EC)."""
        key = serialization.load_pem_private_key(issued.key.encode(), password=None)
        certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("expected an elliptic curve key that belongs to the certificate")
        self.issued = issued
        self._key, self._certificate = key, certificate

    @classmethod
    def new(cls, now: datetime | None = None) -> Self:
        """One with a random key. `now`: in UTC; by default the present."""
        begins = (now or datetime.now(UTC)) - SLOW_CLOCKS
        key, name = _new_key(), _name("AIS authority")
        public = key.public_key()
        certificate = (
            _unsigned(name, name, public, begins, begins + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate, key))

    def issue(self, name: str, *uses: Use, now: datetime | None = None, life: timedelta = LIFE) -> Issued:
        """A certificate that says `name`, with a random key. `now`: in UTC; by default the present."""
        moment = now or datetime.now(UTC)
        ends = min(moment + life, self._certificate.not_valid_after_utc)
        key = _new_key()
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _unsigned(_name(name), self._certificate.subject, key.public_key(), moment - SLOW_CLOCKS, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use.value for use in uses]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate, key)

    def is_among(self, certificates: str) -> bool:
        """Whether it is one of those in PEM. Raises ValueError."""
        return self._certificate in x509.load_pem_x509_certificates(certificates.encode())

    def has_signed(self, certificate: str) -> bool:
        """Whether that is a certificate in PEM that it has issued."""
        try:
            x509.load_pem_x509_certificate(certificate.encode()).verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def ends_at(certificate: str) -> datetime:
    """When a certificate in PEM expires, in UTC. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
