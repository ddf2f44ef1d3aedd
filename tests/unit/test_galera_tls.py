"""TLS between the Galera nodes: who has which key, what changes before what, and which step is refused."""

import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

import dry_run
from components import certificates, database
from settings import Settings, SettingsError
from stackctl.configuration import missing_secrets
from standins.command_provider.values import SECRET, SIGNATURE
from tests import example
from tests.programs import FILES
from tests.unit.conftest import Run

NODES = ("node1", "node2", "node3")
GROUP_TLS = FILES / "mariadb/group_tls.py"
PORT = int(re.findall(r"^GROUP_PORT = (\d+)", GROUP_TLS.read_text(), re.MULTILINE)[0])


def with_tls(tls: str = "required") -> dict[str, Any]:
    return example.settings(lambda raw: example.with_galera_tls(raw, tls))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the nodes have it."""
    path = tmp_path_factory.mktemp("galera") / "bundle.pem"
    path.write_text(certificates.group_bundle(Settings.parse(with_tls()), "test") or "")
    return path


def test_the_certificate_is_its_own_authority_and_stays_the_same(bundle: Path) -> None:
    text = bundle.read_text()
    assert certificates.group_bundle(Settings.parse(with_tls("preferred")), "test") == text
    certificate = x509.load_pem_x509_certificate(text[text.index("-----BEGIN CERT") :].encode())
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc.year == 2049
    # MariaDB's joiner tells the donor this name as a login, and the donor refuses spaces in one.
    assert certificate.subject.rfc4514_string() == "CN=galera-test"
    assert certificates.group_bundle(Settings.parse(example.settings()), "test") is None


def test_the_key_is_on_the_databases_only_and_a_secret(run_program: Run) -> None:
    raw = with_tls()
    recorded = run_program(raw)
    line = raw["secrets"]["galeraTlsKey"].splitlines()[3]
    having = set()
    for resource in recorded.resources:
        for value in resource.inputs.values():
            secret = isinstance(value, dict) and value.get(SIGNATURE) == SECRET
            if line in str(value):
                assert secret, resource.name
                having.add(resource.name)
    assert having == {f"{node}-mariadb-galera-tls-file" for node in NODES}
    for node in NODES:
        command = recorded.named(f"{node}-mariadb-galera-tls-file").inputs["create"]
        assert f"{database.GROUP_BUNDLE} 0640 root:mysql" in command


@pytest.mark.parametrize("tls", ["preferred", "required", None])
def test_how_copies_go_changes_on_all_nodes_before_the_first_one_restarts(run_program: Run, tls: str | None) -> None:
    """Donor and joiner have to agree, and a node that restarts may need a copy."""
    recorded = run_program(with_tls(tls) if tls else example.settings())
    for node in NODES:
        text = recorded.named(f"{node}-mariadb-transfer-file").stdin
        assert ("ssl-mode = VERIFY_CA" in text, "ssl-mode = DISABLED" in text) == (bool(tls), not tls)
        # ssl-cert and the like would be [mysqld]'s, if that has them.
        assert re.findall(r"^(\w+) = /", text, re.MULTILINE) == (["tca", "tcert", "tkey"] if tls else [])
        for other in NODES:
            if tls:
                assert f"{other}-mariadb-galera-tls-file" in recorded.depends_on[f"{node}-mariadb-transfer"]
            assert f"{other}-mariadb-transfer-file" in recorded.depends_on[f"{node}-mariadb-config"]


def provider_options(tls: str) -> str:
    wanted = Settings.parse(with_tls(tls)).database
    text = database.configuration(
        "node1", addresses={"node1": "10.0.0.1"}, cluster="test", database=wanted, max_connections=500, mycat=False
    )
    options: str = re.findall(r'^wsrep_provider_options = "(.*)"$', text, re.MULTILINE)[0]
    return options


def test_required_is_all_that_is_taken_and_preferred_is_both() -> None:
    assert "; socket.ssl=yes; " in provider_options("required")
    assert "dynamic" not in provider_options("required")
    assert provider_options("preferred") == f"{provider_options('required')}; socket.dynamic=yes"


@contextmanager
def node(address: str, serve: Callable[[socket.socket], Any]) -> Iterator[str]:
    """What listens on the group's port."""
    with socket.create_server((address, PORT)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(10)
                    with suppress(OSError):  # the other one judges
                        serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield address
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(15)


def plain(connection: socket.socket) -> None:
    connection.sendall(b"$\0\0\2the handshake's first message")
    connection.recv(1)


def hangs(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def speaks_tls(bundle: Path) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle)
    context.load_verify_locations(bundle)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            inside.recv(1)

    return serve


def group_tls(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, GROUP_TLS, *words], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_only_a_step_that_all_peers_understand_is_taken(bundle: Path) -> None:
    with (
        node("127.4.9.1", plain) as without,
        node("127.4.9.2", speaks_tls(bundle)) as tls_only,
        node("127.4.9.3", hangs) as hung,
    ):
        nobody = "127.4.9.4"
        assert group_tls("preferred", without, tls_only) == (0, "")
        assert group_tls("required", tls_only, hung, nobody) == (0, "")
        assert group_tls("disabled", without, hung, nobody) == (0, "")
        code, said = group_tls("required", tls_only, without)
        assert (code, f"required is not possible yet: {without} can be reached without TLS" in said) == (1, True)
        code, said = group_tls("disabled", without, tls_only)
        assert (code, f"none is not possible yet: {tls_only} can be reached with TLS only" in said) == (1, True)
        assert "set it to preferred, run `up`" in said


def test_each_node_asks_its_peers_before_it_changes(run_program: Run) -> None:
    raw = with_tls()
    addresses = {machine["name"]: machine["address"] for machine in raw["machines"]}
    for mode, recorded in (("required", run_program(raw)), ("disabled", run_program(example.settings()))):
        for name in NODES:
            peers = " ".join(addresses[other] for other in NODES if other != name)
            command = recorded.named(f"{name}-mariadb-config-file").inputs["create"]
            assert f"{database.GROUP_TLS} {mode} {peers}" in command
            assert f"{name}-mariadb-group-tls-file" in recorded.depends_on[f"{name}-mariadb-config"]


def test_stackctl_generates_the_key_and_renders_without_it() -> None:
    config = {f"mycat-ha:{key}": value for key, value in with_tls().items()}
    del config["mycat-ha:secrets"]
    assert "galeraTlsKey" in missing_secrets({"config": config})
    text = dry_run.files("test", config)["node1"][database.GROUP_BUNDLE.lstrip("/")]
    assert text == "<secret:galeraTlsKey>\n<certificate>\n"


def set_tls(tls: str = "required", **secrets: str) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        example.with_galera_tls(raw, tls)
        raw["secrets"] |= secrets

    return change


def with_rsync(raw: dict[str, Any]) -> None:
    example.with_galera_tls(raw)
    raw["database"]["galera"]["stateTransfer"] = "rsync"


def without_key(raw: dict[str, Any]) -> None:
    example.with_galera_tls(raw)
    del raw["secrets"]["galeraTlsKey"]


def external(raw: dict[str, Any]) -> None:
    example.external_databases(raw)
    example.with_galera_tls(raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_rsync, r"mycat-ha:database\.galera: tls: a copy by rsync"),
        (set_tls("always"), r"mycat-ha:database\.galera\.tls: .*'preferred'"),
        (set_tls(galeraTlsKey="no key"), r"secrets\.galeraTlsKey: not an RSA private key"),
        (without_key, r"secrets\.galeraTlsKey: missing"),
        (external, r"mycat-ha:database\.galera\.tls: database\.external are"),
    ],
    ids=["rsync", "unknown", "no key", "missing", "external"],
)
def test_is_refused(change: Callable[[dict[str, Any]], Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings.parse(example.settings(change))
