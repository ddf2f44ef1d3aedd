"""By what the stack proves to TLS clients, and the databases to each other, who they are.

To clients: a certificate of the stack's own authority, or the user's. To each other: one that all of them share.

The certificates are made here, out of keys that are secrets of the stack. The same inputs make the same bytes (RSA
signatures with PKCS#1 v1.5 have no chance in them), so that an `up` without a change changes nothing.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from settings import Role, Settings
from settings.certificates import read
from settings.secret_names import AUTHORITY_KEY, GALERA_KEY, STATISTICS_KEY, TLS_KEY
from settings.services import Certificate

#: Of the authority's certificate, which clients keep. Fixed: it must never change by itself.
AUTHORITY_SINCE, AUTHORITY_UNTIL = datetime(2025, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Identity:
    """All of it PEM."""

    #: The certificate that clients verify the servers' by.
    authority: str
    #: The servers' key and certificate in one file, so that no moment has one without the other. A secret.
    bundle: str


#: A command that refuses the file ``$STAGED`` if the machine's OpenSSL does not take it: what is to use it would not
#: start with it.
BUNDLE_LOADS = (
    "python3 -c 'import ssl, sys; ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(sys.argv[1])' \"$STAGED\""
)


def identity(settings: Settings, stack: str, now: datetime | None = None) -> Identity | None:
    """Of the stack's databases; None without `database.tls`. ``now`` decides the half-year of the certificate."""
    return _identity(settings, stack, settings.database.tls, TLS_KEY, Role.MYSQL, now)


def of_statistics(settings: Settings, stack: str, now: datetime | None = None) -> Identity | None:
    """Of the load balancers' statistics pages; None without `haproxy.statistics.tls`."""
    return _identity(settings, stack, settings.haproxy.statistics.tls, STATISTICS_KEY, Role.LB, now)


def _identity(
    settings: Settings, stack: str, own: Certificate | None, secret: str, role: Role, now: datetime | None
) -> Identity | None:
    if own is None:
        return None
    key = settings.secrets[secret].get_secret_value().strip() + "\n"
    if own.certificate and own.authority:
        return Identity(read(own.authority), key + read(own.certificate))
    authority_key = _rsa(settings.secrets[AUTHORITY_KEY].get_secret_value())
    # Its name is as old as its first use; with another one it would be another authority.
    authority = _authority(authority_key, f"databases of {stack}", "key_cert_sign", "crl_sign")
    addresses = [settings.vip.address, *(machine.address for machine in settings.of_role(role))]
    certificate = _server(authority, authority_key, _rsa(key).public_key(), addresses, own.names, now)
    return Identity(_pem(authority), key + _pem(certificate))


def group_bundle(settings: Settings, stack: str) -> str | None:
    """Key and certificate (PEM) by which the Galera nodes know each other, a secret; None without `galera.tls`.

    Whoever has it is a node, so all nodes have the same one, and it is its own authority. It never expires by itself:
    a stack that nobody touches must not lose its databases on a day of the calendar.
    """
    if settings.database.galera.tls is None:
        return None
    pem = settings.secrets[GALERA_KEY].get_secret_value().strip() + "\n"
    # A donor takes no name with spaces in it, for the joiner says this one in its request.
    uses = ("digital_signature", "key_encipherment", "key_cert_sign")
    return pem + _pem(_authority(_rsa(pem), f"galera-{stack}", *uses))


def period(now: datetime) -> tuple[datetime, datetime]:
    """The half-year of the calendar that ``now`` is in, and the end of the next one: from when until when a certificate
    is valid. So an `up` replaces it when there is half a year left, or more."""
    since = datetime(now.year, 1 if now.month < 7 else 7, 1, tzinfo=UTC)
    return since, since.replace(year=now.year + 1)


def _authority(key: RSAPrivateKey, common_name: str, *uses: str) -> x509.Certificate:
    """One that has signed itself."""
    name = _name(common_name)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(*uses), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    return _signed(name, name, key.public_key(), key, (AUTHORITY_SINCE, AUTHORITY_UNTIL), extensions)


def _server(
    authority: x509.Certificate,
    authority_key: RSAPrivateKey,
    key: RSAPublicKey,
    addresses: Sequence[IPv4Address],
    names: Sequence[str],
    now: datetime | None,
) -> x509.Certificate:
    since, until = period(now or datetime.now(UTC))
    valid_for = [*map(x509.IPAddress, addresses), *map(x509.DNSName, names)]
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage("digital_signature", "key_encipherment"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName(valid_for), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False),
    ]
    # A day earlier, for clients whose clocks are behind.
    validity = (since - timedelta(days=1), until)
    return _signed(_name(str(addresses[0])), authority.subject, key, authority_key, validity, extensions)


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: RSAPublicKey,
    issuer_key: RSAPrivateKey,
    validity: tuple[datetime, datetime],
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.not_valid_before(validity[0]).not_valid_after(validity[1])
    contents = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    contents.update(repr((subject.public_bytes(), issuer.public_bytes(), validity)).encode())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
        contents.update(extension.public_bytes())
    # Another one for other contents; 127 bits, never 0 (RFC 5280, 4.1.2.2).
    serial = int.from_bytes(contents.digest()[:16]) >> 1 | 1
    return builder.serial_number(serial).sign(issuer_key, hashes.SHA256())


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in allowed for name in _KEY_USAGES})


def _name(text: str) -> x509.Name:
    """At most 64 characters (RFC 5280, A.1, ub-common-name)."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _rsa(pem: str) -> RSAPrivateKey:
    key = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, RSAPrivateKey)  # the settings' checks
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
