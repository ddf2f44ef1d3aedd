"""TLS of the databases: the certificates that the program makes, and the user's own."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

import dry_run
from components import certificates, database, health
from settings import Role, Settings, SettingsError
from settings.certificates import problems
from settings.secret_names import AUTHORITY_KEY, TLS_KEY
from stackctl.configuration import missing_secrets
from standins.command_provider.values import SECRET, SIGNATURE
from tests import example
from tests.unit.conftest import Run

NOW = datetime(2026, 3, 5, tzinfo=UTC)
VIP = IPv4Address("192.168.106.249")
KEYS = example.tls_keys()
Change = Callable[[dict[str, Any]], Any]


def with_tls(**tls: Any) -> dict[str, Any]:
    return example.settings(lambda raw: example.with_tls(raw, **tls))


def made(now: datetime = NOW, stack: str = "test", **tls: Any) -> certificates.Identity:
    identity = certificates.identity(Settings.parse(with_tls(**tls)), stack, now)
    assert identity
    return identity


def certificate(identity: certificates.Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.bundle[identity.bundle.index("-----BEGIN CERT") :].encode())


def test_within_a_half_year_nothing_changes() -> None:
    first = made(datetime(2026, 1, 1, tzinfo=UTC))
    assert made(datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC)) == first
    later = made(datetime(2026, 7, 1, tzinfo=UTC))
    assert later.authority == first.authority
    assert later.bundle != first.bundle
    assert certificate(later).serial_number != certificate(first).serial_number


@pytest.mark.parametrize("day", range(0, 800, 9))
def test_an_up_leaves_half_a_year_of_validity(day: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, minutes=1)
    since, until = certificates.period(now)
    assert since <= now
    assert timedelta(days=180) < until - now <= timedelta(days=367)
    one = certificate(made(now)) if day % 90 == 0 else None
    assert one is None or one.not_valid_before_utc < since < one.not_valid_after_utc == until


def test_it_is_for_the_vip_the_databases_and_the_names_and_its_authority_has_signed_it(tmp_path: Path) -> None:
    identity = made(names=["db.example.com", "*.db.example.com"])
    one, authority = certificate(identity), x509.load_pem_x509_certificate(identity.authority.encode())
    valid_for = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = ["192.168.106.249", *(f"192.168.106.25{i}" for i in (1, 2, 3))]
    assert [str(ip) for ip in valid_for.get_values_for_type(x509.IPAddress)] == addresses
    assert valid_for.get_values_for_type(x509.DNSName) == ["db.example.com", "*.db.example.com"]
    one.verify_directly_issued_by(authority)
    assert KEYS["databaseTlsKey"] in identity.bundle
    assert KEYS["databaseAuthorityKey"].splitlines()[3] not in identity.bundle
    assert "PRIVATE KEY" not in identity.authority
    # As a strict client sees it.
    (tmp_path / "ca").write_text(identity.authority)
    (tmp_path / "bundle").write_text(identity.bundle)
    strict = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", str(VIP)]
    strict += ["-attime", str(int(NOW.timestamp())), "-CAfile", str(tmp_path / "ca"), str(tmp_path / "bundle")]
    assert subprocess.run(strict, capture_output=True, text=True, check=True).stdout.strip().endswith("OK")


NAMES: tuple[dict[str, Any], ...] = ({}, {"names": ["a.example.com"]})


def test_other_contents_are_another_certificate() -> None:
    serials = {certificate(made(**tls)).serial_number for tls in NAMES}
    assert len(serials) == 2
    assert made(stack="other").authority != made().authority


# -- what reaches machines, outputs and previews ------------------------------------------------------------------


def test_keys_are_secrets_wherever_they_go(run_program: Run) -> None:
    raw = with_tls(required=True)
    recorded = run_program(raw)
    lines = [key.splitlines()[3] for key in KEYS.values()]
    for resource in recorded.resources:
        for key, value in resource.inputs.items():
            secret = isinstance(value, dict) and value.get(SIGNATURE) == SECRET
            assert secret or not any(line in json.dumps(value) for line in lines), (resource.name, key)
    for node in ("node1", "node2", "node3"):
        command = recorded.named(f"{node}-mariadb-tls-file")
        assert command.inputs["stdin"][SIGNATURE] == SECRET
        assert lines[1] in command.stdin
        assert lines[0] not in command.stdin  # the authority's key is on no machine
        assert f"{database.TLS_BUNDLE} 0640 root:mysql" in command.inputs["create"]
        assert f"{node}-mariadb-tls-file" in recorded.depends_on[f"{node}-mariadb-config"]
    assert "IDENTIFIED VIA unix_socket;" in recorded.named("node1-mariadb-users").stdin


def test_without_it_nothing_is_there(run_program: Run) -> None:
    recorded = run_program()
    assert not [resource for resource in recorded.resources if "mariadb-tls" in resource.name]
    assert "ssl" not in recorded.named("node1-mariadb-config-file").stdin
    assert "ssl" not in health.checks([Role.MYSQL], "10.0.0.1", "x")["/mysql"]


def test_a_new_certificate_restarts_nothing(run_program: Run) -> None:
    """The node's start follows the configuration, which does not change."""
    started = [
        run_program(with_tls(names=names)).named("node1-mariadb-start").inputs["triggers"] for names in ([], ["a.b"])
    ]
    assert started[0] == started[1]


def test_stackctl_generates_the_keys_and_renders_without_them() -> None:
    config = {f"mycat-ha:{key}": value for key, value in with_tls().items()}
    del config["mycat-ha:secrets"]
    assert {AUTHORITY_KEY, TLS_KEY} <= set(missing_secrets({"config": config}))
    text = dry_run.files("test", config)["node1"][database.TLS_BUNDLE.lstrip("/")]
    assert text == "<secret:databaseTlsKey>\n<certificate>\n"
    config["mycat-ha:database"]["tls"] = {"certificate": "/not/here", "authority": "/not/here"}
    assert "databaseAuthorityKey" not in missing_secrets({"config": config})
    assert dry_run.files("test", config)["node1"][database.TLS_BUNDLE.lstrip("/")] == text


# -- what is refused ------------------------------------------------------------------------------------------------


def external(raw: dict[str, Any]) -> None:
    example.external_databases(raw)
    raw["database"]["tls"] = {}


def required_with_mycat(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    example.with_tls(raw, required=True)


def set_tls(**tls: Any) -> Change:
    return lambda raw: example.with_tls(raw, **tls)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, r"mycat-ha:database\.tls: database\.external are"),
        (required_with_mycat, r"mycat-ha:database\.tls\.required: mycat\.dataHosts leads Mycat to 192\.168\.106\.25"),
        (set_tls(certificate="/x"), r"mycat-ha:database\.tls: certificate, authority: set both"),
        (set_tls(certificate="/x", authority="/x"), r"mycat-ha:database\.tls\.certificate: /x: .*No such file"),
        (set_tls(names=["a b"]), r"mycat-ha:database\.tls\.names\[0\]"),
        (
            lambda raw: (set_tls()(raw), raw["secrets"].update(databaseTlsKey="no key")),
            r"mycat-ha:secrets\.databaseTlsKey: not an RSA",
        ),
        (
            lambda raw: raw["database"].update(tls={}),
            r"mycat-ha:secrets\.databaseAuthorityKey: missing",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(change: Change, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        Settings.parse(example.settings(change))
    assert "no key" not in str(error.value)


def test_mycat_without_required_is_fine() -> None:
    raw = example.settings(required_with_mycat)
    raw["database"]["tls"] = {}
    assert Settings.parse(raw).database.tls


def with_names(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a certificate of the user's own, and says what is wrong with it."""

    def judge(
        *,
        names: tuple[str, ...] = (),
        san: x509.SubjectAlternativeName | None = None,
        key: str = KEYS["databaseTlsKey"],
        signer: str = KEYS["databaseAuthorityKey"],
        now: datetime = NOW,
    ) -> list[str]:
        authority = made().authority
        issuer = x509.load_pem_x509_certificate(authority.encode()).subject
        loaded = load_pem_private_key(KEYS["databaseTlsKey"].encode(), None).public_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
        builder = x509.CertificateBuilder(issuer, name, loaded, 7, NOW - timedelta(1), NOW + timedelta(1))  # type: ignore[arg-type]
        builder = builder.add_extension(san or x509.SubjectAlternativeName([x509.IPAddress(VIP)]), critical=False)
        signed = builder.sign(load_pem_private_key(signer.encode(), None), hashes.SHA256())  # type: ignore[arg-type]
        (tmp_path / "own").write_bytes(signed.public_bytes(Encoding.PEM))
        (tmp_path / "ca").write_text(authority)
        paths = str(tmp_path / "own"), str(tmp_path / "ca")
        return list(problems("database.tls", *paths, ("databaseTlsKey", key), VIP, names, now))

    return judge


def test_the_users_own_certificate_is_taken_as_it_is(own: Callable[..., list[str]], tmp_path: Path) -> None:
    assert own() == []
    assert own(names=("db.example.com",), san=with_names("*.example.com")) == []
    raw = with_tls(certificate=str(tmp_path / "own"), authority=str(tmp_path / "ca"))
    del raw["secrets"]["databaseAuthorityKey"]
    raw["database"]["tls"]["names"] = ["db.example.com"]
    own(now=NOW, san=with_names("db.example.com"))
    with pytest.raises(SettingsError, match=r"database\.tls\.certificate: .*has expired on 2026-03-06"):
        Settings.parse(raw)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key": KEYS["databaseAuthorityKey"]}, "database.tls.certificate: {own} is not for the key in secrets."),
        ({"key": "x"}, "secrets.databaseTlsKey: not a private key"),
        ({"now": NOW + timedelta(2)}, "database.tls.certificate: {own}: CN=own has expired on 2026-03-06"),
        ({"now": NOW - timedelta(2)}, "database.tls.certificate: {own}: CN=own is not valid before 2026-03-04"),
        ({"san": with_names("a.example.com")}, "database.tls.certificate: {own} does not cover vip.address"),
        ({"names": ("b.example.com",)}, "database.tls.certificate: {own} is not for b.example.com"),
        ({"signer": KEYS["databaseTlsKey"]}, "database.tls.authority: {ca} has not signed {own}"),
    ],
)
def test_a_certificate_that_clients_would_refuse_is_refused(
    own: Callable[..., list[str]], tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    found = own(**wrong)
    assert len(found) == 1
    assert found[0].startswith(message.format(own=tmp_path / "own", ca=tmp_path / "ca"))
