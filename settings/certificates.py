"""The keys of TLS, and the user's own certificate: is it one that clients can verify?"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


def read(path: str) -> str:
    """The text of a PEM file. Raises ValueError or OSError."""
    return Path(path).expanduser().read_text(encoding="ascii")


def new_key() -> str:
    """A private key in PEM, for the stack's own authority or for what it signs."""
    key = generate_private_key(public_exponent=65537, key_size=3072)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def is_rsa_key(pem: str) -> bool:
    """Whether the stack's own certificates can be made with it."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (TypeError, ValueError):
        return False
    return isinstance(key, RSAPrivateKey) and key.key_size >= 2048


def problems(
    place: str,
    certificate: str,
    authority: str,
    key: tuple[str, str],
    vip: IPv4Address,
    names: Sequence[str],
    now: datetime | None = None,
) -> Iterator[str]:
    """What is wrong, as ``KEY: reason``. ``place``: the key of the section; ``certificate`` and ``authority``: paths;
    ``key``: name of the secret, and the private key in PEM.
    """
    loaded: list[list[x509.Certificate]] = []
    for name, path in (("certificate", certificate), ("authority", authority)):
        try:
            loaded.append(x509.load_pem_x509_certificates(read(path).encode()))
        except (OSError, ValueError) as error:
            yield f"{place}.{name}: {path}: {error}"
    if len(loaded) < 2:
        return
    chain, authorities = loaded
    own, (secret, pem) = chain[0], key
    try:
        if load_pem_private_key(pem.encode(), password=None).public_key() != own.public_key():
            yield f"{place}.certificate: {certificate} is not for the key in secrets.{secret}"
    except (TypeError, ValueError):
        yield f"secrets.{secret}: not a private key in PEM without a password"
    yield from _validity(f"{place}.certificate: {certificate}", chain, now or datetime.now(UTC))
    yield from _coverage(place, certificate, own, vip, names)
    signed = all(_signed(issued, issuer) for issued, issuer in pairwise(chain))
    if not signed or not any(chain[-1] == one or _signed(chain[-1], one) for one in authorities):
        yield (
            f"{place}.authority: {authority} has not signed {certificate}, which has to begin with the servers' own "
            "certificate, followed by those between it and the authority, each signed by the next one"
        )


def _validity(place: str, chain: Sequence[x509.Certificate], now: datetime) -> Iterator[str]:
    for one in chain:
        if one.not_valid_after_utc < now:
            yield f"{place}: {one.subject.rfc4514_string()} has expired on {one.not_valid_after_utc:%Y-%m-%d}"
        if one.not_valid_before_utc > now:
            yield f"{place}: {one.subject.rfc4514_string()} is not valid before {one.not_valid_before_utc:%Y-%m-%d}"


def _coverage(
    place: str, certificate: str, own: x509.Certificate, vip: IPv4Address, names: Sequence[str]
) -> Iterator[str]:
    here = f"{place}.certificate: {certificate}"
    try:
        valid_for = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        yield f"{here} has no subjectAltName, without which no client takes it for the VIP's"
        return
    in_it = [name.lower() for name in valid_for.get_values_for_type(x509.DNSName)]
    for name in names:
        if not {name.lower(), "*." + name.lower().partition(".")[2]} & set(in_it):
            yield f"{here} is not for {name} of {place}.names; it is for {', '.join(in_it) or 'no name'}"
    if not names and vip not in valid_for.get_values_for_type(x509.IPAddress):
        yield f"{here} does not cover vip.address {vip}; if clients connect by a name, put that into {place}.names"


def _signed(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True
