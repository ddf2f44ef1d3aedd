"""What the program relies on in Pulumi's command provider, on the real engine.

The same tests run on this project's stand-in and, where it is installed, on the
real plugin: a difference between the two is a fault of the stand-in.
"""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pulumi
from pulumi import automation
from pulumi_command import local, remote

from tests.contract.conftest import Stack, as_json, log, resource
from tests.contract.sshd import PASSWORD, Server, serving


def connect(server: Server, **more: Any) -> remote.ConnectionArgs:
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "user": "admin"}
    return remote.ConnectionArgs(**{**settings, "private_key": server.private_key, "dial_error_limit": 1, **more})


def test_life_of_a_command(stack: Stack, server: Server, host: Path) -> None:
    def program(update: str = "one") -> None:
        command = remote.Command(
            "life",
            connection=connect(server),
            create='echo create >>log; echo made; echo; echo "to stderr" >&2',
            update=f'echo "update {update}, was $PULUMI_COMMAND_STDOUT" >>log; echo updated',
            delete='echo "delete, was $PULUMI_COMMAND_STDOUT" >>log',
        )
        pulumi.export("stdout", command.stdout)
        pulumi.export("stderr", command.stderr)

    assert stack.outputs(program) == {"stdout": "made\n", "stderr": "to stderr"}, "one line end is removed, not two"
    assert log(host / "log") == ["create"]
    assert stack.changes(program) == {}
    assert stack.outputs(lambda: program("two"))["stdout"] == "updated"
    stack.stack.destroy()
    assert log(host / "log") == ["create", "update two, was made", "", "delete, was updated"]


def test_without_an_update_command_create_runs_again(stack: Stack, server: Server, host: Path) -> None:
    def program(text: str) -> None:
        remote.Command("again", connection=connect(server), create="echo $(cat) >>log", stdin=text)

    stack.up(lambda: program("first"))
    assert stack.changes(lambda: program("second")) == {"update": 1}
    assert stack.changes(lambda: program("second")) == {}
    assert log(host / "log") == ["first", "second"]
    stack.stack.destroy()
    assert log(host / "log") == ["first", "second"], "there is no delete command"


def test_triggers_replace(stack: Stack, server: Server, host: Path) -> None:
    def program(*all_triggers: tuple[Any, ...]) -> None:
        for number, triggers in enumerate(all_triggers):
            remote.Command(
                f"triggered-{number}",
                connection=connect(server),
                create=f"echo create >>log-{number}",
                update=f"echo update >>log-{number}",
                delete=f"echo delete >>log-{number}",
                triggers=list(triggers) or None,
            )

    before: tuple[Any, ...] = ("a", {"b": 1})
    same, another, one_more, none = before, ("a", {"b": 2}), (*before, "c"), ()
    stack.up(lambda: program(before, before, before, before))
    assert stack.changes(lambda: program(same, another, one_more, none)) == {"replace": 3}
    assert log(host / "log-0") == ["create"]
    for number in (1, 2, 3):
        ran = log(host / f"log-{number}")
        assert ran == ["create", "create", "delete"], "the old one is deleted after the new one is made"


def test_a_changed_connection_updates(stack: Stack, server: Server, host: Path) -> None:
    def program(**more: Any) -> None:
        remote.Command(
            "host", connection=connect(server, **more), create="echo create >>log", update="echo update >>log"
        )

    stack.up(lambda: program(per_dial_timeout=15))
    assert stack.changes(lambda: program(per_dial_timeout=20)) == {"update": 1}
    assert log(host / "log") == ["create", "update"]
    assert stack.changes(lambda: program(per_dial_timeout=20)) == {}


def test_environment_needs_the_servers_consent(stack: Stack, server: Server) -> None:
    def program() -> None:
        for name in ("ACCEPTED_NAME", "OTHER_NAME"):
            remote.Command(name, connection=connect(server), create=f"echo ${name}", environment={name: "a value"})

    (said,) = stack.failures(program).items()
    assert said[0] == "OTHER_NAME"
    assert 'could not set environment variable "OTHER_NAME": ssh: setenv failed' in said[1]
    assert stack.state("ACCEPTED_NAME")["outputs"]["stdout"] == "a value"


def test_previous_output_can_be_kept_out_of_the_environment(stack: Stack, server: Server) -> None:
    def program(number: int) -> None:
        command = remote.Command(
            "quiet",
            connection=connect(server),
            create="echo made",
            update=f'echo "{number}:$PULUMI_COMMAND_STDOUT"',
            add_previous_output_in_env=False,
        )
        pulumi.export("stdout", command.stdout)

    stack.up(lambda: program(1))
    assert stack.outputs(lambda: program(2)) == {"stdout": "2:"}


def test_a_failing_command_says_what_it_wrote_and_leaves_the_state(stack: Stack, server: Server) -> None:
    def program(command: str) -> None:
        made = remote.Command("failing", connection=connect(server), create=command)
        pulumi.export("stdout", made.stdout)

    stack.up(lambda: program("echo fine"))
    said = stack.fails(lambda: program('echo "out"; echo err >&2; exit 3'))
    assert 'Process exited with status 3: running "echo \\"out\\"; echo err >&2; exit 3":' in said
    assert "out" in said
    assert "err" in said
    assert stack.state("failing")["inputs"]["create"] == "echo fine"
    assert stack.changes(lambda: program("echo fine")) == {}


def test_a_command_that_is_killed_fails(stack: Stack, server: Server) -> None:
    def program() -> None:
        remote.Command("killed", connection=connect(server), create="kill -TERM $$")

    said = stack.fails(program)
    assert "from signal TERM" in said


def test_large_input_and_output(stack: Stack, server: Server) -> None:
    text = "".join(f"line {number} äöü\n" for number in range(40_000))

    def program() -> None:
        command = remote.Command(
            "large", connection=connect(server), create="cat", stdin=text, logging=remote.Logging.NONE
        )
        pulumi.export("stdout", command.stdout)

    assert stack.outputs(program) == {"stdout": text.removesuffix("\n")}


def test_logins(stack: Stack, server: Server) -> None:
    encrypted = server.encrypted_key("open sesame")

    cases: dict[str, dict[str, Any]] = {
        "password": {"private_key": None, "password": PASSWORD},
        "encrypted-key": {"private_key": encrypted, "private_key_password": "open sesame"},
        "wrong-password": {"private_key": None, "password": "wrong", "dial_error_limit": 0},
    }

    def program() -> None:
        for name, more in cases.items():
            remote.Command(name, connection=connect(server, **more), create="echo in")

    (said,) = stack.failures(program).items()
    assert said[0] == "wrong-password"
    assert "unable to authenticate" in said[1]
    for name in ("password", "encrypted-key"):
        assert stack.state(name)["outputs"]["stdout"] == "in"


def test_passphrases(stack: Stack, server: Server) -> None:
    encrypted, pkcs8 = server.encrypted_key("open sesame"), server.encrypted_key("open sesame", "pkcs8-pem")
    cases = {
        "wrong": (encrypted, "wrong", "decryption password incorrect"),
        "none": (encrypted, None, "this private key is passphrase protected"),
        "unneeded": (server.private_key, "open sesame", "key is not password protected"),
        "pkcs8": (pkcs8, "open sesame", "not an encrypted key"),
        "pkcs8-none": (pkcs8, None, "unsupported key type"),
    }

    def program() -> None:
        for name, (key, passphrase, _) in cases.items():
            connection = connect(server, private_key=key, private_key_password=passphrase)
            remote.Command(name, connection=connection, create="true")

    said = stack.failures(program)
    assert said.keys() == cases.keys()
    for name, (_, _, expected) in cases.items():
        assert expected in said[name]


def test_a_malformed_private_key_is_not_shown(stack: Stack, server: Server) -> None:
    lines = server.private_key.splitlines()
    broken = "\n".join([*lines[:2], *lines[3:]])

    def program(key: Any) -> None:
        remote.Command("key", connection=connect(server, private_key=key), create="true")

    said = stack.fails(lambda: program(broken))
    assert "ssh: " in said
    for line in lines[1:-1]:
        assert line not in said + stack.messages()


def test_host_keys(stack: Stack, server: Server) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()

    def program() -> None:
        for name, key in {"known": server.host_public_key, "other": other, "malformed": "not a key"}.items():
            remote.Command(name, connection=connect(server, host_key=key, dial_error_limit=0), create="true")

    said = stack.failures(program)
    assert said.keys() == {"other", "malformed"}
    assert "host key mismatch" in said["other"]
    assert "failed to parse host key" in said["malformed"]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_dials_are_limited(stack: Stack, server: Server) -> None:
    def program(port: int) -> None:
        remote.Command("absent", connection=connect(server, port=port, dial_error_limit=2), create="true")

    said = stack.fails(lambda: program(closed_port()))
    assert "after 2 failed attempts: dial tcp 127.0.0.1:" in said
    assert "connection refused" in said


def test_dials_without_a_limit_wait_for_the_server(stack: Stack, server: Server, host: Path) -> None:
    port = closed_port()

    def program() -> None:
        command = remote.Command(
            "late",
            connection=connect(server, port=port, dial_error_limit=-1, per_dial_timeout=1),
            create="echo at last",
        )
        pulumi.export("stdout", command.stdout)

    def start_late() -> None:
        time.sleep(4)
        with serving(host, port, like=server):
            finished.wait(60)

    finished = threading.Event()
    late = threading.Thread(target=start_late)
    late.start()
    try:
        assert stack.outputs(program) == {"stdout": "at last"}
    finally:
        finished.set()
        late.join()


def test_a_silent_host_is_given_up_after_the_time_for_a_dial(stack: Stack, server: Server) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        blockers = [socket.socket() for _ in range(4)]
        for blocker in blockers:  # a full queue: the kernel answers no further dial
            blocker.setblocking(False)
            blocker.connect_ex(full.getsockname())
        connection = connect(server, port=full.getsockname()[1], dial_error_limit=1, per_dial_timeout=1)

        def program() -> None:
            remote.Command("silent", connection=connection, create="true")

        started = time.monotonic()
        said = stack.fails(program)
        assert "i/o timeout" in said
        assert time.monotonic() - started < 15
        for blocker in blockers:
            blocker.close()


def test_proxy(stack: Stack, server: Server, host: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "behind": {},
        "other-key": {"host_key": server.host_public_key, "dial_error_limit": 0},
    }

    def program() -> None:
        for name, more in cases.items():
            through = remote.ProxyConnectionArgs(
                host="127.0.0.1", port=bastion.port, user="jump", private_key=bastion.private_key, **more
            )
            remote.Command(name, connection=connect(server, proxy=through), create="echo $ACCEPTED")

    with serving(host) as bastion:
        (said,) = stack.failures(program).items()
        assert bastion.tunnels == [f"127.0.0.1:{server.port}"]
        assert stack.state("behind")["outputs"]["stdout"] == ""
        assert said[0] == "other-key"
        assert "proxy: " in said[1]
        assert "host key mismatch" in said[1]


def test_a_login_behind_a_proxy_is_tried_again_on_the_tunnel_that_is_closed(stack: Stack, server: Server) -> None:
    """As pulumi-command does: whoever relies on a login's repetition behind a bastion waits for nothing."""

    def program() -> None:
        through = remote.ProxyConnectionArgs(
            host="127.0.0.1", port=bastion.port, user="jump", private_key=bastion.private_key
        )
        connection = connect(
            server, private_key=None, password="wrong", proxy=through, dial_error_limit=2, host_key=None
        )
        remote.Command("behind", connection=connection, create="true")

    with serving(Path()) as bastion:
        said = stack.fails(program)
        assert "proxy: after 2 failed attempts: ssh: handshake failed: " in said
        assert "unable to authenticate" not in said.rpartition("proxy: ")[2]
        assert len(bastion.tunnels) == 1


def test_a_commands_connection_stays_open_and_a_copys_does_not(stack: Stack, server: Server, host: Path) -> None:
    def program() -> None:
        connection = connect(server)
        copied = remote.CopyToRemote(
            "copy", connection=connection, source=pulumi.StringAsset("x"), remote_path=f"{host}/copied"
        )
        first = remote.Command(
            "first", connection=connection, create="true", opts=pulumi.ResourceOptions(depends_on=[copied])
        )
        remote.Command(
            "second", connection=connection, create="sleep 1", opts=pulumi.ResourceOptions(depends_on=[first])
        )

    stack.up(program)
    assert server.most_at_once == 2


def test_logging(stack: Stack, server: Server) -> None:
    told = {None: "oe", "stdout": "o", "stderr": "e", "stdoutAndStderr": "oe", "none": ""}

    def program() -> None:
        for logging in told:
            create = f"echo {logging}-o; echo {logging}-e >&2"
            kind = remote.Logging(logging) if logging else None
            remote.Command(f"log-{logging}", connection=connect(server), create=create, logging=kind)

    stack.up(program)
    messages = stack.messages()
    for logging, streams in told.items():
        for stream in "oe":
            assert (f"{logging}-{stream}" in messages) == (stream in streams)
    assert stack.state("log-none")["outputs"]["stdout"] == "none-o"


def test_secrets_in_the_state(stack: Stack, server: Server) -> None:
    def program() -> None:
        remote.Command(
            "secretive",
            connection=connect(server),
            create="cat",
            stdin=pulumi.Output.secret("hush-hush"),
            environment={"ACCEPTED_A": pulumi.Output.secret("hush-hush")},
            logging=remote.Logging.NONE,
            opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout"]),
        )
        remote.Command("open", connection=connect(server), create="cat", stdin=pulumi.Output.secret("not hidden"))

    result = stack.up(program)
    state = stack.state("secretive")
    assert "hush-hush" not in as_json(state)
    assert "hush-hush" not in result.stdout + result.stderr + stack.messages()
    assert "PRIVATE KEY" not in as_json(state)
    for part in ("inputs", "outputs"):
        assert "ciphertext" in state[part]["connection"]
        assert "ciphertext" in state[part]["stdin"]
    assert "ciphertext" in state["outputs"]["stdout"]
    assert stack.state("open")["outputs"]["stdout"] == "not hidden", "as on the real one, an output has to be marked"
    assert stack.changes(program) == {}


def test_a_mark_of_secrecy_that_goes_is_a_change(stack: Stack, server: Server, host: Path) -> None:
    def program(text: pulumi.Input[str]) -> None:
        remote.Command("reader", connection=connect(server), create="cat; echo run >>log", stdin=text)

    stack.up(lambda: program(pulumi.Output.secret("text")))
    assert stack.changes(lambda: program("text")) == {"update": 1}
    assert log(host / "log") == ["run", "run"]
    assert stack.changes(lambda: program("text")) == {}


def test_preview_with_unknown_inputs_runs_nothing(stack: Stack, server: Server, host: Path, tmp_path: Path) -> None:
    def program(text: str = "text", copied: str = "copied") -> None:
        first = remote.Command("first", connection=connect(server), create=f"echo first >>log; echo {text}")
        second = remote.Command(
            "second", connection=connect(server), create="echo second >>log; cat", stdin=first.stdout
        )
        third = remote.Command(
            "third",
            connection=remote.ConnectionArgs(
                host=second.stdout.apply(lambda _: "127.0.0.1"), port=server.port, private_key=server.private_key
            ),
            create=first.stdout.apply(lambda word: f"echo {word} >>log"),
            triggers=[second.id],
        )
        local.Command("here", create=third.stdout.apply(lambda _: f"echo here >>{host}/log"))
        remote.CopyToRemote(
            "copy",
            connection=connect(server),
            source=pulumi.StringAsset(copied),
            remote_path=second.stdout.apply(lambda word: f"{host}/{word}"),
        )
        pulumi.export("stdout", second.stdout)

    previewed = stack.preview(program).change_summary
    assert previewed == {"create": 6}
    assert log(host / "log") == []
    assert stack.outputs(program) == {"stdout": "text"}
    assert log(host / "log") == ["first", "second", "text", "here"]
    assert (host / "text").read_text() == "copied"
    updated = stack.preview(lambda: program("other")).change_summary
    assert updated[automation.OpType.UPDATE] >= 2
    assert len(log(host / "log")) == 4
    assert stack.outputs(lambda: program("other")) == {"stdout": "other"}


def test_refresh_changes_nothing(stack: Stack, server: Server, host: Path) -> None:
    def program() -> None:
        remote.Command("still", connection=connect(server), create="echo ran >>log; echo out", triggers=["a"])

    stack.up(program)
    stack.stack.refresh()
    assert stack.state("still")["outputs"]["stdout"] == "out"
    assert stack.changes(program) == {}
    assert log(host / "log") == ["ran"]


def test_wrong_properties_are_refused_by_name(stack: Stack) -> None:
    for kind, properties, named in (
        ("remote:Command", {"create": "true"}, "connection"),
        ("remote:Command", {"connection": {"user": "x"}}, "host"),
        ("remote:Command", {"connection": {"host": "h"}, "script": "true"}, "script"),
        ("remote:Command", {"connection": {"host": "h", "hostname": "h"}}, "hostname"),
        ("remote:Command", {"connection": {"host": "h"}, "create": ["true"]}, "create"),
        ("remote:Command", {"connection": "h"}, "connection"),
        ("local:Command", {"create": "true", "interpreter": "bash"}, "interpreter"),
        ("remote:CopyToRemote", {"connection": {"host": "h"}, "remotePath": "/x"}, "source"),
        ("local:Command", {"create": "true", "connection": {"host": "h"}}, "connection"),
    ):

        def program(kind: str = kind, properties: dict[str, Any] = properties) -> None:
            resource(f"command:{kind}", "wrong", properties)

        assert re.search(rf"[Ff]ield '{named}' on '(remote|local)\.\w+'", stack.refuses(program))


def test_copy_to_remote(stack: Stack, server: Server, host: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "a").write_text("a")
    (source / "inner" / "b").write_text("b")
    (host / "there").mkdir()

    def program(text: str = "text") -> None:
        for name, asset, target in (
            ("text", pulumi.StringAsset(text), "new/folder/text"),
            ("file", pulumi.FileAsset(str(source / "a")), "file"),
            ("into", pulumi.FileAsset(str(source / "a")), "there"),
            ("folder", pulumi.FileArchive(str(source)), "folder"),
            ("contents", pulumi.FileArchive(f"{source}/"), "contents"),
        ):
            remote.CopyToRemote(name, connection=connect(server), source=asset, remote_path=f"{host}/{target}")

    stack.up(program)
    copied = {str(path.relative_to(host)): path.read_text() for path in host.rglob("*") if path.is_file()}
    assert copied == {
        "new/folder/text": "text",
        "file": "a",
        "there/a": "a",
        "folder/source/a": "a",
        "folder/source/inner/b": "b",
        "contents/a": "a",
        "contents/inner/b": "b",
    }
    (host / "file").unlink()
    assert stack.changes(program) == {}
    assert not (host / "file").exists(), "nothing has changed, so nothing is copied"
    (source / "a").write_text("changed")
    assert stack.changes(lambda: program("changed")) == {"update": 5}
    assert (host / "file").read_text() == (host / "contents/a").read_text() == "changed"
    assert (host / "new/folder/text").read_text() == "changed"
    stack.stack.destroy()
    assert (host / "file").exists(), "the real one does not delete what it has copied"


def test_copy_to_remote_refuses(stack: Stack, server: Server, host: Path) -> None:
    def program(asset: Any, target: str) -> None:
        remote.CopyToRemote("refused", connection=connect(server), source=asset, remote_path=f"{host}/{target}")

    (host / "folder").mkdir()
    (host / "file").touch()
    assert "is a directory" in stack.fails(lambda: program(pulumi.StringAsset("x"), "folder"))
    archive = pulumi.AssetArchive({"x": pulumi.StringAsset("x")})
    assert "archive must be a path" in stack.fails(lambda: program(archive, "x"))
    assert "asset must be a path" in stack.fails(lambda: program(pulumi.RemoteAsset(f"file://{host}/file"), "x"))


def test_local_command(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    (folder / "deep" / "er").mkdir(parents=True)

    def program(content: str = "one") -> None:
        command = local.Command(
            "local",
            create="cat >made.txt; touch deep/er/x.js deep/secret.js; pwd; echo $VARIABLE",
            delete="rm made.txt",
            stdin=content,
            dir=str(folder),
            environment={"VARIABLE": "value"},
            interpreter=["/bin/bash", "-euc"],
            asset_paths=["*.txt", "deep/**.js", "!**secret.*"],
            archive_paths=["**"],
        )
        pulumi.export("stdout", command.stdout)
        pulumi.export("assets", command.assets.apply(lambda assets: sorted(assets or {})))

    assert stack.outputs(program) == {"stdout": f"{folder}\nvalue", "assets": ["deep/er/x.js", "made.txt"]}
    assert stack.changes(program) == {}
    assert stack.changes(lambda: program("two")) == {"update": 1}
    assert (folder / "made.txt").read_text() == "two"
    stack.stack.destroy()
    assert not (folder / "made.txt").exists()


def test_a_failing_local_command(stack: Stack) -> None:
    def program() -> None:
        local.Command("failing", create="echo out; echo err >&2; exit 4")

    said = stack.fails(program)
    assert 'exit status 4: running "echo out; echo err >&2; exit 4":' in said
    assert "err" in said


def test_commands_run_at_the_same_time(stack: Stack, server: Server) -> None:
    def program() -> None:
        for number in range(24):
            remote.Command(f"sleeper-{number}", connection=connect(server), create="sleep 2")

    started = time.monotonic()
    stack.up(program, parallel=32)
    assert time.monotonic() - started < 24, "one after the other they take 48 s"


def test_a_command_ends_with_its_time_limit(stack: Stack) -> None:
    def program() -> None:
        local.Command(
            "slow",
            create="exec sleep 60",
            opts=pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create="1s")),
        )

    started = time.monotonic()
    assert "slow" in stack.fails(program)
    assert time.monotonic() - started < 30


def test_an_interrupted_up_ends_its_commands(stack: Stack, tmp_path: Path) -> None:
    """By the CLI, because the automation API cannot pass a signal on."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: contract\nruntime: python\n")
    (project / "__main__.py").write_text(
        f"from pulumi_command import local\nlocal.Command('slow', create='echo $$ >{tmp_path}/pid; exec sleep 300')\n"
    )
    env = {**os.environ, "PULUMI_BACKEND_URL": (tmp_path / "state").as_uri(), "PULUMI_CONFIG_PASSPHRASE": "contract"}
    argv = ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--stack", "contract"]
    with subprocess.Popen(
        argv,
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        pid = wait_for(lambda: int((tmp_path / "pid").read_text()))
        up.send_signal(signal.SIGTERM)
        said, _ = up.communicate(timeout=60)
    assert up.returncode != 0, said
    assert not Path(f"/proc/{pid}").exists(), said


def wait_for(value: Callable[[], int]) -> int:
    """What `value` returns as soon as it does not fail, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return value()
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
