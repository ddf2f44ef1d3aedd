"""`stackctl render`: what it shows is what machines get, but for secrets, and it asks nobody."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

import dry_run
from settings import NAMESPACE, SettingsError
from stackctl import rendering
from stackctl.project import Stack, StackError, read_yaml
from tests import example
from tests.conftest import ROOT
from tests.unit.conftest import Run
from tests.unit.test_mycat_settings import RULE, SCHEMA, SERVER
from tests.unit.test_secrets import CASES
from tests.unit.test_stacks import STACKS, own_files


def rendered(raw: dict[str, Any], **others: str) -> dry_run.Files:
    return dry_run.files("test", {**{f"{NAMESPACE}:{section}": value for section, value in raw.items()}, **others})


def as_known(text: str, secrets: dict[str, str]) -> str:
    """``text`` with what the tests' mocks answer, and with the secrets."""
    text = re.sub(r"<secret:(\w+)>", lambda match: secrets[match[1]], text)
    return re.sub(r"'<id of ([\w-]+)>'", r"\1-id", re.sub(r"<device of \w+>", "ens5", text))


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_machines_get(case: str, run_program: Run) -> None:
    raw = CASES[case]
    secrets = {name: f"Hush{index:04}" for index, name in enumerate(raw["secrets"])}
    files = rendered(raw)
    compared = 0
    for command in run_program({**raw, "secrets": secrets}).of_type("command:remote:Command"):
        machine, _, name = command.name.partition("-")
        if command.inputs.get("stdin") is None or name.endswith("vip-environment-file"):  # below
            continue
        if name.endswith("-file"):
            path = re.findall(r"install-file /(\S+)", command.inputs["create"])[0]
            expected = {path: command.stdin}
        elif name == "mycat-configuration":
            expected = {f"stdin/{name}/{file}": text for file, text in json.loads(command.stdin).items()}
        else:
            expected = {f"stdin/{name}": command.stdin}
        for path, text in expected.items():
            assert as_known(files[machine].pop(path), secrets) == text
            compared += 1
    assert compared > 50
    assert {path for texts in files.values() for path in texts} == {"etc/mycat-ha/vip.env"}  # nothing else


def test_what_only_aws_knows_has_a_name_and_the_region_has_its_domain() -> None:
    lines = rendered(example.settings(), **{"aws:region": "cn-north-1"})["node2"]["etc/mycat-ha/vip.env"].splitlines()
    assert "ENDPOINT=https://ec2.cn-north-1.amazonaws.com.cn" in lines
    assert {"ENI='<id of node2-eni>'", "BETTER='<id of node1-eni>'", "ROLE='<name of cluster-vip-role>'"} <= set(lines)


def test_a_secret_is_its_name_whether_it_is_encrypted_plain_or_missing() -> None:
    raw = example.settings(example.with_mycat)
    raw["secrets"] = {"statistics": {"secure": "v1:AAAA"}, "database": "open", "unused": "open"}
    files = rendered(raw)
    text = rendering.text(files)
    assert "v1:AAAA" not in text
    assert "open" not in files["node1"]["stdin/mariadb-users"]
    assert "Hidden" not in text
    assert set(re.findall(r"<secret:(\w+)>", text)) == {
        "statistics", "database", "health", "mycat", "mycatReport", "mycatDatabase",
    }  # fmt: skip
    raw["secrets"] = {"secure": "v1:all of them"}
    assert rendered(raw) == files


def test_passwords_in_the_users_own_files_are_not_shown(tmp_path: Path) -> None:
    raw = example.settings(own_files)
    raw["mycat"]["files"] = str(tmp_path)
    schema = SCHEMA.replace('password="p"', 'password="hunter2"')
    for name, text in (("server.xml", SERVER), ("schema.xml", schema), ("rule.xml", RULE)):
        (tmp_path / name).write_text(text)
    passwords = set(re.findall(r'password(?:="|">)([^"<]+)', SERVER + schema))
    assert passwords == {"secret-health", "hunter2"}
    files = rendered(raw)
    for name in ("server.xml", "schema.xml"):
        assert files["node1"][f"stdin/mycat-configuration/{name}"] == f"<as it stands in {tmp_path}>\n"
    assert "<Configuration" in files["node1"]["stdin/mycat-configuration/log4j2.xml"]
    text = rendering.text(files)
    assert [password for password in passwords if password in text] == []


def test_it_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    network = {"subnetId": "subnet-0abc", "subnetCidr": "192.168.106.128/25"}  # which the program looks up
    assert rendered(example.settings(lambda raw: raw.update(network=network)))


@pytest.mark.parametrize("stack", STACKS)
def test_a_committed_stack_is_rendered_as_it_stands(stack: str) -> None:
    source = Stack(stack).source
    files = dry_run.files(stack, read_yaml(source)["config"])
    assert list(files) == [machine["name"] for machine in read_yaml(source)["config"][f"{NAMESPACE}:machines"]]
    assert "<secret:statistics>" in "".join(texts.get("etc/haproxy/haproxy.cfg", "") for texts in files.values())


def test_wrong_settings_are_refused_in_the_settings_words() -> None:
    with pytest.raises(SettingsError, match=r"mycat-ha:vip\.address: 10\.9\.9\.9 is not in the subnet"):
        rendered(example.settings(lambda raw: raw["vip"].update(address="10.9.9.9")))


def stack_of(tmp_path: Path, text: str) -> Stack:
    stack = Stack("staging", local=tmp_path)
    stack.generated.parent.mkdir()
    stack.generated.write_text(text)
    return stack


def test_the_command_shows_one_machine_or_says_which_there_are(tmp_path: Path) -> None:
    stack = stack_of(tmp_path, Stack("staging").source.read_text())
    files = rendering.render(stack, "node3")
    assert list(files) == ["node3"]
    assert "\n==> node3: /etc/mysql/mariadb.conf.d/60-galera.cnf <==\n" in rendering.text(files)
    with pytest.raises(StackError, match=r"no files on a machine 'node9'; it has node1, node2, node3"):
        rendering.render(stack, "node9")


def test_the_command_says_what_is_wrong_with_the_settings(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"'staging' cannot be rendered:\nmycat-ha:network: Field required"):
        rendering.render(stack_of(tmp_path, "config: {'mycat-ha:vip': {address: 10.0.0.1}}"))
    with pytest.raises(StackError, match=r"'nowhere' has no settings: write stacks/Pulumi\.nowhere\.yaml"):
        rendering.render(Stack("nowhere", root=ROOT, local=tmp_path))


def test_a_folder_holds_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    files = {"node1": {"etc/a.conf": "a\n", "stdin/tools": "b"}, "node2": {"etc/a.conf": "c\n"}}
    rendering.write(files, tmp_path / "new")
    assert rendering.read(tmp_path / "new") == files
    with pytest.raises(StackError, match="not empty"):
        rendering.write(files, tmp_path / "new")
