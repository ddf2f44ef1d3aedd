"""`haproxy.statistics.tls`: the certificate, the lines, the secrets, and what is refused."""

from typing import Any

import pytest
from cryptography import x509

from components import certificates
from components.haproxy import STATISTICS_BUNDLE
from settings import Settings, SettingsError
from settings.secret_names import AUTHORITY_KEY, STATISTICS_KEY, TLS_KEY
from stackctl.configuration import missing_secrets
from tests import example
from tests.unit.conftest import Run

BIND = f" ssl crt {STATISTICS_BUNDLE} ssl-min-ver TLSv1.2"


def with_tls(**tls: Any) -> dict[str, Any]:
    return example.settings(lambda raw: example.with_statistics_tls(raw, **tls))


def test_both_pages_are_over_tls(run_program: Run) -> None:
    raw = with_tls()
    example.static_and_dynamic(raw)
    text = run_program(raw).named("node1-haproxy-config-file").stdin
    assert f"    bind *:8888{BIND}\n" in text
    assert f"    bind *:1080{BIND}\n" in text
    assert text.count(" ssl ") == 2
    assert " ssl " not in run_program().named("node1-haproxy-config-file").stdin


def test_the_certificate_is_for_the_vip_and_the_balancers(run_program: Run) -> None:
    identity = certificates.of_statistics(Settings.parse(with_tls(names=["lb.example.com"])), "test")
    assert identity
    one = x509.load_pem_x509_certificate(identity.bundle[identity.bundle.index("-----BEGIN CERT") :].encode())
    valid_for = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in valid_for.get_values_for_type(x509.IPAddress)] == [
        f"192.168.106.{last}" for last in (249, 251, 252)
    ]
    assert valid_for.get_values_for_type(x509.DNSName) == ["lb.example.com"]
    one.verify_directly_issued_by(x509.load_pem_x509_certificate(identity.authority.encode()))

    recorded = run_program(with_tls(names=["lb.example.com"]))
    file = recorded.named("node2-haproxy-statistics-tls-file")
    assert file.stdin == identity.bundle
    assert "0600" in file.inputs["create"]
    assert isinstance(file.inputs["stdin"], dict)  # a secret
    assert "reload-haproxy" in file.inputs["create"]
    assert not [each for each in run_program().resources if "statistics-tls" in each.name]


def test_the_databases_authority_signs_it_too() -> None:
    raw = with_tls()
    raw["database"]["tls"] = {}
    both = Settings.parse(raw)
    databases, statistics = certificates.identity(both, "test"), certificates.of_statistics(both, "test")
    assert databases
    assert statistics
    assert databases.authority == statistics.authority
    assert databases.bundle != statistics.bundle


def test_stackctl_generates_the_keys() -> None:
    config = {f"mycat-ha:{key}": value for key, value in with_tls().items()}
    del config["mycat-ha:secrets"]
    missing = set(missing_secrets({"config": config}))
    assert {AUTHORITY_KEY, STATISTICS_KEY} <= missing
    assert TLS_KEY not in missing
    config["mycat-ha:haproxy"]["statistics"]["tls"] = {"certificate": "/not/here", "authority": "/not/here"}
    assert AUTHORITY_KEY not in missing_secrets({"config": config})


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"certificate": "/x"}, r"haproxy\.statistics\.tls: certificate, authority: set both"),
        ({"certificate": "/x", "authority": "/x"}, r"haproxy\.statistics\.tls\.certificate: /x: .*No such file"),
        ({"names": ["a b"]}, r"haproxy\.statistics\.tls\.names\[0\]"),
        ({"required": True}, r"haproxy\.statistics\.tls\.required"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tls: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.parse(with_tls(**tls))
