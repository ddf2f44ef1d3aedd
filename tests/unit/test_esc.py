"""Pulumi ESC: stackctl opens a stack's environments with the real Pulumi CLI. Pulumi Cloud is a stand-in.

It answers the four requests of `pulumi env open` as of Pulumi 3.259 (github.com/pulumi/esc, cmd/esc/cli/client).
"""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from stackctl import aws, configuration, esc
from stackctl.environment import Environment
from stackctl.project import Stack, StackError
from stackctl.pulumi import Pulumi

TOKEN = "pul-0123456789"
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "acme/aws/login": {
        "environmentVariables": {
            "AWS_ACCESS_KEY_ID": "AKIAFROMESC",
            "AWS_SECRET_ACCESS_KEY": "esc-secret",
            "AWS_SESSION_TOKEN": "esc-token",
            "AWS_REGION": "eu-west-1",
        },
        "pulumiConfig": {"aws:region": "eu-west-1"},
    },
    "acme/mycat/production": {
        "pulumiConfig": {"aws:region": "eu-central-1", "secrets": {"statistics": "from-esc"}},
    },
}


def value(plain: Any) -> dict[str, Any]:
    """A value as the service writes it."""
    inner = {key: value(each) for key, each in plain.items()} if isinstance(plain, dict) else plain
    return {"value": inner, "trace": {}}


class Cloud(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        name = path.removeprefix("/api/esc/environments/").partition("/open")[0]
        if self.headers["Authorization"] != f"token {TOKEN}":
            self.answer(401, {"code": 401, "message": "Unauthorized"})
        elif path == "/api/user":
            self.answer(200, {"githubLogin": "ops", "name": "ops", "organizations": [{"githubLogin": "acme"}]})
        elif path == "/api/user/organizations/default":
            self.answer(200, {"GitHubLogin": "acme"})
        elif name not in ENVIRONMENTS:
            self.answer(404, {"code": 404, "message": f"environment {name!r} not found"})
        elif path.endswith("/open/opened"):
            self.answer(200, {"properties": {key: value(each) for key, each in ENVIRONMENTS[name].items()}})
        else:
            self.answer(200, {"id": "opened"})

    do_POST = do_GET  # noqa: N815  (http.server's name)

    def answer(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Cloud) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def account() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.fixture
def pulumi(cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    path = shutil.which("pulumi")
    assert path, "there is no `pulumi` on PATH: test by `make test`"
    variables = {"PATH": str(Path(path).parent), "HOME": str(tmp_path), "PULUMI_HOME": str(tmp_path / "home")}
    variables |= {"PULUMI_BACKEND_URL": cloud, "PULUMI_ACCESS_TOKEN": TOKEN}
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "stacks").mkdir()
    # Whether the stack exists is the backend's to say, and no part of this service.
    monkeypatch.setattr(Pulumi, "exists", lambda _: False)
    return Pulumi(Stack("production", root=tmp_path, local=tmp_path / ".local"), Environment(variables))


def settings(pulumi: Pulumi, **content: Any) -> dict[str, Any]:
    pulumi.stack.source.write_text(yaml.safe_dump(content))
    return content


def test_the_later_environment_wins_and_maps_are_merged(pulumi: Pulumi) -> None:
    found = esc.opened(pulumi, ["aws/login", "acme/mycat/production"])
    assert found.config == {"aws:region": "eu-central-1", "mycat-ha:secrets": {"statistics": "from-esc"}}
    assert found.variables["AWS_ACCESS_KEY_ID"] == "AKIAFROMESC"
    assert esc.merged({"a": {"b": 1, "c": 1}}, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (["aws/login", "mycat/production"], ["aws/login", "mycat/production"]),
        (["aws/login", {"mycat/production": {"merge": False}}, {"other": None}], ["aws/login", "other"]),
        ({"imports": ["aws/login"]}, ["aws/login"]),
        (None, []),
    ],
)
def test_every_form_of_the_key_environment(environment: Any, names: list[str]) -> None:
    assert esc.imports({"environment": environment}) == names


def test_values_in_the_stacks_own_file_are_refused_with_what_to_do() -> None:
    with pytest.raises(StackError, match="an environment of Pulumi ESC, and its name under `environment`"):
        esc.imports({"environment": {"values": {"pulumiConfig": {"aws:region": "eu-west-1"}}}})


def test_region_and_credentials_are_the_environments(pulumi: Pulumi, account: None) -> None:
    settings(pulumi, environment=["aws/login", "mycat/production"], config={})
    session = aws.connect_stack(pulumi)
    assert isinstance(session, boto3.Session)
    credentials = session.get_credentials()
    assert credentials is not None
    assert (credentials.access_key, credentials.token) == ("AKIAFROMESC", "esc-token")
    assert session.region_name == "eu-central-1"


def test_the_stacks_own_settings_win(pulumi: Pulumi, account: None) -> None:
    settings(pulumi, environment=["mycat/production"], config={"aws:region": "us-east-1"})
    session = aws.connect_stack(pulumi)
    assert isinstance(session, boto3.Session)
    assert session.region_name == "us-east-1"


def test_a_secret_that_an_environment_gives_is_not_generated(pulumi: Pulumi, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the stack's own would win over it."""
    generated: list[str] = []

    def read(_: Pulumi, *words: str, **__: Any) -> str:
        generated.append(words[-1])
        return ""

    monkeypatch.setattr(Pulumi, "read", read)
    monkeypatch.setattr(configuration, "create", lambda _: None)
    settings(pulumi, environment=["mycat/production"], config={"mycat-ha:access": {}})
    configuration.prepare(pulumi)
    assert generated == ['mycat-ha:secrets["sshPrivateKey"]']


def test_one_that_cannot_be_opened_is_named_with_pulumis_reason(pulumi: Pulumi) -> None:
    with pytest.raises(StackError, match=r"(?s)env open aws/none.*not found"):
        esc.opened(pulumi, ["aws/none"])
