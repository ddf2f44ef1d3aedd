"""files/machine/leave-service and in-service: how a machine leaves service before it stops, and when it is back."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from components.template import verbatim
from constants import LONGEST_DRAIN
from tests.programs import FILES, Stubs

LEAVE, IN = "machine/leave-service", "machine/in-service"


class Node(Stubs):
    """A machine with databases, Mycat and a load balancer, as far as the programs see it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "bin")
        self.etc, self.leaving, self.library = folder / "etc", folder / "leaving", folder / "library"
        self.etc.mkdir()
        self.library.mkdir()
        for command in ("sleep", "systemctl", "curl"):
            self.add(command)

    def has(self, *services: str) -> None:
        (self.etc / "health.json").write_text(json.dumps({f"/{service}": {} for service in services}))

    def balances(self, state: str) -> None:
        """With keepalived in this state."""
        (self.etc / "vip.env").write_text("VIP=192.0.2.9\n")
        (self.library / "vrrp-state").write_text(f"#!/bin/bash\necho {state}\n")
        calls = self.folder.parent / "bin.calls"
        for program in ("claim-vip", "switch-vip"):
            (self.library / program).write_text(f'#!/bin/bash\necho "{program} $*" >>{calls}\n')
        for program in ("vrrp-state", "claim-vip", "switch-vip"):
            (self.library / program).chmod(0o755)

    def do(self, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(
            program,
            *words,
            MYCAT_HA_ETC=str(self.etc),
            MYCAT_HA_LEAVING=str(self.leaving),
            MYCAT_HA_LIBRARY=str(self.library),
        )

    def left(self) -> set[str]:
        return {path.name for path in self.leaving.iterdir()} if self.leaving.exists() else set()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_service_leaves_and_comes_back(node: Node) -> None:
    node.has("mysql", "mycat")
    (node.etc / "leave-service.env").write_text("NOTICE_SECONDS=3\n")
    assert node.do(LEAVE, "mysql").returncode == 0
    assert node.left() == {"mysql"}
    until = float((node.leaving / "mysql").read_text()) - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 590 < until <= 600
    assert node.calls("sleep") == ["3"]
    assert node.do(LEAVE, "back", "mysql").returncode == 0
    assert node.left() == set()
    assert node.calls("systemctl") == []


def test_before_a_shutdown_everything_leaves_that_is_here(node: Node) -> None:
    node.has("mysql", "mycat")
    node.balances("master")
    assert node.do(LEAVE, "all").returncode == 0
    assert node.left() == {"mysql", "mycat"}
    assert [call for call in node.calls() if not call.startswith("sleep")] == [
        "switch-vip drain",
        "claim-vip hand-over",
    ]
    assert node.calls("sleep") == ["5"]


def test_systemd_waits_for_the_longest_drain() -> None:
    assert f"TimeoutStopSec={LONGEST_DRAIN + 30}" in verbatim("machine/leave-service.service").splitlines()


def test_a_backup_only_stops_to_be_one(node: Node) -> None:
    node.balances("backup")
    assert node.do(LEAVE, "all").returncode == 0
    assert node.calls() == ["systemctl --job-mode=ignore-dependencies stop keepalived.service"]
    assert node.left() == set()


def test_a_machine_that_does_not_balance_keeps_its_hands_off_vrrp(node: Node) -> None:
    node.has("mysql")
    assert node.do(LEAVE, "all").returncode == 0
    assert node.left() == {"mysql"}
    assert node.calls() == ["sleep 5"]


@pytest.mark.parametrize("words", [(), ("vip",), ("mysql2",)])
def test_anything_else_is_refused(node: Node, words: tuple[str, ...]) -> None:
    done = node.do(LEAVE, *words)
    assert done.returncode == 64
    assert done.stderr.startswith("usage: leave-service")


def enabled(node: Node, *units: str) -> None:
    node.add(
        "systemctl",
        f'case "$*" in "is-enabled --quiet "*) [[ " {" ".join(units)} " == *" $3 "* ]] ;; '
        "show*) echo '192.0.2.1:48700 (Stream)' ;; esac",
    )


def answers(node: Node, **paths: str) -> None:
    cases = " ".join(f"*/{path}) printf '{answer}' ;;" for path, answer in paths.items())
    node.add("curl", f'case "${{!#}}" in {cases} *) exit 7 ;; esac')


def test_a_machine_that_was_never_set_up_has_nothing_to_do(node: Node) -> None:
    enabled(node)
    assert node.do(IN, "0").returncode == 0


def test_a_machine_that_does_its_part_is_in_service(node: Node) -> None:
    node.has("mysql", "mycat")
    node.balances("backup")
    enabled(node, "mycat-ha-health.socket", "keepalived.service")
    answers(node, mysql=r"ok\n200", mycat=r"ok\n200")
    done = node.do(IN, "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert [call.split()[-1] for call in node.calls("curl")] == [
        f"http://192.0.2.1:48700/{p}" for p in ("mysql", "mycat")
    ]


@pytest.mark.parametrize(
    ("state", "mysql", "missing"),
    [
        ("backup", r"the node is not synced: Joining\n503", "mysql: the node is not synced: Joining"),
        ("fault", r"ok\n200", "keepalived: fault"),
        ("", r"ok\n200", "keepalived: not running"),
    ],
)
def test_what_is_missing_is_named(node: Node, state: str, mysql: str, missing: str) -> None:
    node.has("mysql")
    node.balances(state)
    enabled(node, "mycat-ha-health.socket", "keepalived.service")
    answers(node, mysql=mysql)
    done = node.do(IN, "0")
    assert done.returncode == 1
    assert "not in service after 0 s" in done.stderr
    assert missing in done.stderr


def test_it_is_waited_for(node: Node) -> None:
    node.has("mysql")
    enabled(node, "mycat-ha-health.socket")
    answers(node, mysql=r"leaving service\n503")
    node.add("sleep", f"touch {node.folder}/later")
    node.add("curl", rf"[[ -e {node.folder}/later ]] && printf 'ok\n200' || printf 'no\n503'")
    assert node.do(IN, "60").returncode == 0
    assert node.calls("sleep") == ["1"]


def test_the_unit_leaves_service_before_everything_else_stops() -> None:
    unit = (FILES / "machine/leave-service.service").read_text().splitlines()
    (after,) = (line.removeprefix("After=").split() for line in unit if line.startswith("After="))
    services = {"mariadb.service", "mycat.service", "mycat-ha-health.socket", "haproxy.service", "keepalived.service"}
    assert services | {"network-online.target"} <= set(after)
    assert "ExecStop=/usr/local/lib/mycat-ha/leave-service all" in unit
    assert {"Type=oneshot", "RemainAfterExit=yes"} <= set(unit)
