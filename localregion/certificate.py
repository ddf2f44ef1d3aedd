"""The certificate by which the region's services answer over TLS, and which its machines trust.

On AWS it is Amazon's own, which every image trusts. Here the region signs one for itself, anew at each start.
"""

import shutil
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFETIME = timedelta(days=365)
#: What Debian's curl trusts, and where update-ca-certificates(8) finds what to add to it when it makes it anew.
_BUNDLE, _ADDED = "etc/ssl/certs/ca-certificates.crt", "usr/local/share/ca-certificates/local-region.crt"


def _path(state: Path) -> Path:
    return state / "certificate.pem"


def make(state: Path, *names: str | IPv4Address) -> ssl.SSLContext:
    """Write a certificate for these host names and addresses into the region's folder; what a server answers with."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the local region")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    _path(state).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = state / "certificate.key"
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_path(state), private)
    return context


def _general_name(name: str | IPv4Address) -> x509.GeneralName:
    return x509.IPAddress(name) if isinstance(name, IPv4Address) else x509.DNSName(name)


def trust(state: Path, image: Path, disk: Path) -> None:
    """Let a machine that boots for the first time trust it: ``disk`` is what it has over its image."""
    for name in (_BUNDLE, _ADDED):
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_path(state), disk / _ADDED)
    (disk / _BUNDLE).write_bytes((image / _BUNDLE).read_bytes() + _path(state).read_bytes())
