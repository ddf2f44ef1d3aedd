"""`database.backup`, and `stackctl database restore`: which machine is told what, in which order. The machines are
played; what runs on them is not (tests/rendering/test_database_backup.py).
"""

import json
from typing import Any, cast

import pytest

from settings import Settings, SettingsError
from stackctl import backups, ssh
from stackctl.project import StackError
from stackctl.pulumi import Pulumi
from stackctl.ssh import Host, SshError
from stackctl.switchover import REFUSED
from tests import example
from tests.unit.conftest import Run

OLD, NEW = "2026-07-01T02-30-00Z", "2026-07-02T02-30-00Z"
ADDRESSES = {"node1": "192.168.106.251", "node2": "192.168.106.252", "node3": "192.168.106.253"}
USERS = "ALTER USER app IDENTIFIED BY 'a secret'"


def kept(**changes: Any) -> dict[str, Any]:
    return example.settings(lambda raw: raw["database"].update(backup={"bucket": "backups", **changes}))


# -- the program --------------------------------------------------------------------------------------------------


def test_a_role_may_see_the_stacks_own_prefix_only(run_program: Run) -> None:
    recorded = run_program(kept(readPrefixes=["mycat-ha/production"]))
    document = json.loads(recorded.named("cluster-backup-policy").inputs["policy"])
    own = "arn:aws:s3:::backups/mycat-ha/test/*"
    writing = [item for item in document["Statement"] if "s3:PutObject" in item["Action"]]
    assert [item["Resource"] for item in writing] == [own]
    assert [item["Resource"] for item in document["Statement"] if item["Action"] == "s3:GetObject"] == [
        ["arn:aws:s3:::backups/mycat-ha/production/*"]
    ]
    # node1 and node2 balance as well, and have the balancers' role.
    shared = recorded.named("cluster-backup-shared-policy").inputs
    assert shared["role"] == "cluster-vip-role"
    assert json.loads(shared["policy"]) == document
    profiles = [recorded.named(f"{name}-instance").inputs["iamInstanceProfile"] for name in ADDRESSES]
    assert profiles == ["cluster-vip-profile", "cluster-vip-profile", "cluster-backup-profile"]


def test_a_database_learns_where_and_whose_turn_it_is(run_program: Run) -> None:
    recorded = run_program(kept(keepDays=3, testRestore=None))
    settings = json.loads(recorded.named("node2-backup-settings-file").stdin)
    assert settings["node"] == "node2"
    assert settings["nodes"] == list(ADDRESSES)
    assert (settings["bucket"], settings["prefix"], settings["keepDays"]) == ("backups", "mycat-ha/test", 3)
    assert "OnCalendar=*-*-* 02:30:00 UTC\n" in recorded.named("node2-backup-run-timer-file").stdin
    assert "database-backup@test.timer" in recorded.named("node2-backup-off").inputs["create"]
    assert "@run" not in recorded.named("node2-backup-off").inputs["create"]


def test_without_it_there_is_no_role_and_the_timers_of_before_go(run_program: Run) -> None:
    recorded = run_program()
    assert not [each for each in recorded.resources if "backup" in each.name and each.type.startswith("aws:")]
    for name in ADDRESSES:
        off = recorded.named(f"{name}-backup-off").inputs["create"]
        assert "database-backup@run.timer database-backup@test.timer" in off


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bucket": "With_Capitals"}, "database.backup.bucket"),
        ({"prefix": "/absolute"}, "database.backup.prefix"),
        ({"schedule": "daily\nUser=root"}, "database.backup.schedule"),
        ({"keepDays": 0}, "database.backup.keepDays"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named.replace(".", r"\.")):
        Settings.parse(kept(**change))


def test_external_databases_are_backed_up_where_they_are() -> None:
    raw = kept()
    raw["machines"] = [{**machine, "roles": ["lb"]} for machine in raw["machines"]]
    raw["database"] |= {"external": [{"name": "rds", "address": "10.0.0.1"}], "externalCheckUser": "check"}
    with pytest.raises(SettingsError, match=r"database\.backup: the databases are external ones"):
        Settings.parse(raw)


# -- backup -------------------------------------------------------------------------------------------------------


def test_one_of_the_nodes_makes_it(played: "Played", capfd: pytest.CaptureFixture[str]) -> None:
    played.says = {"node1": "no backup here: it is node3's", "node2": "", "node3": "s3://b/x: complete after 3 s"}
    assert backups.backup(cast(Pulumi, played)) == 0
    assert "node3: s3://b/x: complete after 3 s" in capfd.readouterr().err
    played.says["node3"] = "no backup here: mariadbd: ERROR 2002"
    with pytest.raises(StackError, match="no database has made a backup"):
        backups.backup(cast(Pulumi, played))


# -- restore ------------------------------------------------------------------------------------------------------


class Played:
    """The stack's machines, and what it is asked of Pulumi."""

    def __init__(self) -> None:
        #: Machine and command, in the order in which they were begun.
        self.done: list[tuple[str, str]] = []
        #: By machine: what it says to `run`.
        self.says: dict[str, str] = {}
        #: Command to the words of a failure.
        self.fails: dict[tuple[str, str], str] = {}
        self.listed = [
            {"id": name, "node": "node3", "dataBytes": 1 << 30, "bytes": 1 << 20, "restored": None}
            for name in (NEW, OLD)
        ]
        # As `pulumi stack export --show-secrets` shows a secret.
        mark = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
        self.users: Any = {**mark, "plaintext": json.dumps(USERS)}
        self.told = ""

    async def run(self, host: Host, command: str, *, stdin: str | None = None, timeout: float) -> str:
        assert USERS not in command
        name = next(name for name, address in ADDRESSES.items() if address == host.address)
        said = command.removeprefix(f"{backups.PROGRAM} ").replace(backups.UNTIL_SYNCED, "wait")
        self.done.append((name, said))
        if stdin:
            self.told = f"{name}: {stdin}"
        for (where, part), words in self.fails.items():
            if where == name and said.startswith(part):
                raise SshError(words)
        if said == "run":
            return self.says[name]
        return json.dumps(self.listed) if said.startswith("list") else ""

    # Pulumi's

    def read(self, *words: str) -> str:
        assert words == ("stack", "export", "--show-secrets")
        users = {"urn": "urn:pulumi:test::mycat-ha::x::node1-mariadb-users", "inputs": {"stdin": self.users}}
        return json.dumps({"deployment": {"resources": [users]}})

    def commands(self, name: str) -> list[str]:
        return [command for machine, command in self.done if machine == name]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    hosts = {name: Host(address, 22, "admin", "KEY", "ssh-ed25519 AAAA") for name, address in ADDRESSES.items()}
    monkeypatch.setattr(ssh, "run", played.run)
    monkeypatch.setattr(backups, "settings_and_state", lambda _: ({"database": {"backup": {"bucket": "b"}}}, []))
    monkeypatch.setattr(backups, "of", lambda *_: hosts)
    return played


def restore(played: Played, identifier: str | None = None, prefix: str | None = None, *, yes: bool = True) -> int:
    return backups.restore(cast(Pulumi, played), identifier, prefix, lambda _: yes)


def test_the_first_one_gets_it_and_the_others_a_copy(played: Played) -> None:
    assert restore(played) == 0
    stop, start = "systemctl stop mariadb", "systemctl --no-block start mariadb"
    room = f"room {1 << 30}"
    assert played.commands("node1") == [
        *("list", room, f"fetch {NEW}", stop, f"install {NEW}", start, "wait", "exec mariadb --batch"),
    ]
    assert played.commands("node2") == played.commands("node3") == [room, stop, "aside", start, "wait"]
    assert played.told == f"node1: {USERS}"
    order = [(name, command) for name, command in played.done if command in {stop, start, "wait"}]
    assert [name for name, command in order if command == stop] == list(ADDRESSES)
    assert order[3:] == [(name, command) for name in ADDRESSES for command in (start, "wait")]
    installed = played.done.index(("node1", f"install {NEW}"))
    assert all(played.done.index((name, stop)) < installed for name in ADDRESSES)


def test_an_older_one_of_another_stack(played: Played) -> None:
    assert restore(played, OLD, "mycat-ha/production") == 0
    assert "list mycat-ha/production" in played.commands("node1")
    assert f"fetch {OLD} mycat-ha/production" in played.commands("node1")
    assert f"install {OLD}" in played.commands("node1")


@pytest.mark.parametrize(
    "fails",
    [
        {("node3", "room"): "no answer within 60 s"},  # it may be serving clients
        {("node2", "room"): "has 10 MiB left"},
        {("node1", "fetch"): "zstd failed"},
    ],
)
def test_what_cannot_be_done_on_all_is_refused_before_anything_stops(
    played: Played, fails: dict[tuple[str, str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    played.fails = fails
    assert restore(played) == REFUSED
    ((name, _), words), *_ = fails.items()
    assert f"refused, and nothing was changed: {name}: {words}" in capfd.readouterr().err
    assert not [command for _, command in played.done if command.startswith(("systemctl", "install", "aside"))]


def test_nothing_happens_without_a_yes_or_to_an_unknown_backup(played: Played) -> None:
    assert restore(played, yes=False) == REFUSED
    assert restore(played, "2020-01-01T00-00-00Z") == REFUSED
    assert {command.split()[0] for _, command in played.done} == {"list", "room"}


def test_without_the_users_passwords_nothing_is_begun(played: Played) -> None:
    played.users = None
    assert restore(played) == REFUSED
    assert played.done == []


def test_what_fails_half_way_says_where_the_data_are_and_how_to_go_on(played: Played) -> None:
    played.fails = {("node2", "systemctl stop"): "no answer within 600 s"}
    with pytest.raises(StackError, match=r"node2: no answer within 600 s.*mysql\.before-TIME.*the same command"):
        restore(played)
    assert ("node1", f"install {NEW}") not in played.done


def test_a_stack_that_keeps_none_is_told_the_setting(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "settings_and_state", lambda _: ({"database": {}}, []))
    with pytest.raises(StackError, match=r"database\.backup in docs/settings\.md"):
        restore(played)
