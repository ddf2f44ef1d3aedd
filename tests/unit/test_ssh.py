"""stackctl/ssh.py against SSH servers on loopback, and the hosts that stackctl makes of settings and state."""

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from stackctl import hosts, ssh
from stackctl.project import StackError
from stackctl.ssh import Host, SshError
from tests.contract.sshd import Server, serving

KEY = "ssh-ed25519 AAAA"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as server:
        yield server


def host_of(server: Server, **changes: Any) -> Host:
    known = Host("127.0.0.1", server.port, "root", server.private_key, server.host_public_key)
    return replace(known, **changes)


def run(host: Host, command: str, stdin: str | None = None, timeout: float = 20) -> str:
    return asyncio.run(ssh.run(host, command, stdin=stdin, timeout=timeout))


def failure(host: Host, command: str = "true", timeout: float = 20) -> str:
    with pytest.raises(SshError) as raised:
        run(host, command, timeout=timeout)
    assert host.private_key.splitlines()[1] not in str(raised.value) + repr(host)
    return str(raised.value)


class TestRun:
    def test_a_script_with_input(self, server: Server) -> None:
        assert run(host_of(server), "read -r word\necho \"it's $word\" '$'", stdin="secret\n") == "it's secret $\n"

    def test_the_first_failure_ends_it_and_its_last_words_are_told(self, server: Server) -> None:
        said = failure(host_of(server), "seq 9 >&2; (exit 7); echo on >&2")
        assert said == f"127.0.0.1, port {server.port}: exit status 7: 5\n6\n7\n8\n9"

    def test_through_a_bastion(self, server: Server, tmp_path: Path) -> None:
        with serving(tmp_path) as bastion:
            assert run(host_of(server, via=host_of(bastion)), "echo there") == "there\n"
        assert bastion.tunnels == [f"127.0.0.1:{server.port}"]

    def test_another_user_becomes_root_without_a_password(self) -> None:
        assert (
            ssh._as_root("admin", "echo it", 2.5) == "sudo -n timeout --kill-after=5 3 bash -euo pipefail -c 'echo it'"
        )

    def test_another_host_key(self, server: Server) -> None:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        said = failure(host_of(server, host_key=other))
        assert said.startswith(f"127.0.0.1, port {server.port}: another host key")
        assert server.logins == []

    def test_another_host_key_of_the_bastion(self, server: Server, tmp_path: Path) -> None:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        with serving(tmp_path) as bastion:
            said = failure(host_of(server, via=host_of(bastion, host_key=other)))
        assert said.startswith(f"127.0.0.1, port {bastion.port}: another host key")

    def test_no_host_key_trusts_whoever_answers(self, server: Server) -> None:
        assert run(host_of(server, host_key=None), "echo it") == "it\n"

    def test_a_key_that_is_not_taken(self, server: Server) -> None:
        other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        assert "login as root refused" in failure(host_of(server, private_key=other))

    def test_what_is_not_a_key(self, server: Server) -> None:
        assert "not a key" in failure(host_of(server, private_key="-----\nnone\n"))

    def test_refused(self, server: Server) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert failure(host_of(server, port=port)).startswith(f"127.0.0.1, port {port}: refused")

    def test_refused_behind_the_bastion(self, server: Server, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        said = failure(host_of(server, port=port, via=host_of(server)))
        assert said.startswith(f"127.0.0.1, port {port} (through 127.0.0.1, port {server.port}): the bastion cannot")

    def test_no_answer(self, server: Server) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            said = failure(host_of(server, port=port), timeout=0.3)
        assert said == f"127.0.0.1, port {port}: no answer within 0.3 s"

    def test_a_command_that_does_not_end(self, server: Server) -> None:
        assert "no answer within 0.5 s" in failure(host_of(server), "sleep 60", timeout=0.5)


def resource(kind: str, name: str, **outputs: Any) -> dict[str, Any]:
    urn = f"urn:pulumi:s::mycat-ha::mycat-ha:cluster:Cluster${kind}::{name}"
    return {"urn": urn, "type": kind.rpartition("$")[2], "outputs": outputs}


def ready(name: str) -> dict[str, Any]:
    said = json.dumps({"device": "ens5", "hostKey": f"{KEY}-{name}"})
    return resource("mycat-ha:machine:Machine$command:remote:Command", f"{name}-ready", stdout=said)


CREATED = [
    resource("mycat-ha:bastion:Bastion$aws:ec2/eip:Eip", "cluster-bastion-address", publicIp="198.51.100.7"),
    resource(
        "mycat-ha:bastion:Bastion$command:remote:Command", "cluster-bastion-ready", stdout=f"{KEY}-bastion root@b\n"
    ),
]


def config(**access: Any) -> dict[str, Any]:
    known = {"clients": ["10.0.0.0/8"], "administrators": ["10.0.0.0/8"], "sshPublicKey": "ssh-ed25519 AAAA"}
    return {
        "machines": [
            {"name": "one", "address": "10.7.0.1", "roles": ["lb", "mysql"]},
            {"name": "two", "address": "10.7.0.2", "roles": ["mysql"]},
        ],
        "access": {**known, **access},
        "secrets": {"sshPrivateKey": "PRIVATE"},
    }


class TestHosts:
    def test_directly(self) -> None:
        found = hosts.of(config(deployer=["10.1.0.0/16"]), [ready("one"), ready("two")])
        assert found == {
            "one": Host("10.7.0.1", 22, "admin", "PRIVATE", f"{KEY}-one"),
            "two": Host("10.7.0.2", 22, "admin", "PRIVATE", f"{KEY}-two"),
        }

    def test_of_a_role_with_the_images_user(self) -> None:
        known = config(deployer=["10.1.0.0/16"]) | {"instances": {"image": {"user": "ubuntu"}}}
        assert hosts.of(known, [ready("one")], "lb") == {"one": Host("10.7.0.1", 22, "ubuntu", "PRIVATE", f"{KEY}-one")}

    def test_through_a_created_bastion(self) -> None:
        known = config(bastion={"create": True, "cidrs": ["10.1.0.0/16"]})
        via = hosts.of(known, [*CREATED, ready("one"), ready("two")])["two"].via
        assert via == Host("198.51.100.7", 22, "admin", "PRIVATE", f"{KEY}-bastion")

    def test_through_a_given_bastion(self) -> None:
        given = {"host": "b.example.com", "port": 2222, "user": "jump", "hostKey": KEY, "address": "10.7.0.9"}
        via = hosts.of(config(bastion=given), [ready("one"), ready("two")])["one"].via
        assert via == Host("b.example.com", 2222, "jump", "PRIVATE", KEY)

    def test_one_that_up_has_not_reached_yet(self) -> None:
        with pytest.raises(StackError, match="no host key of two"):
            hosts.of(config(deployer=["10.1.0.0/16"]), [ready("one")])
        with pytest.raises(StackError, match="the bastion"):
            hosts.of(config(bastion={"create": True, "cidrs": ["10.1.0.0/16"]}), CREATED[:1])
