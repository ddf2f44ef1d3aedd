"""files/vip/claim-vip against a fake EC2 API and a fake metadata service: what it writes, says and returns."""

import fcntl
import itertools
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakeaws import DROP, HANG, REGION, ROLE, Answer, Ec2, Keys, Metadata, cut, error
from tests.programs import FILES, Stubs

VIP, SUBNET = "192.168.106.249", "subnet-1"
MINE, OTHER = "eni-mine", "eni-other"
ASSIGN, DESCRIBE = "AssignPrivateIpAddresses", "DescribeNetworkInterfaces"
#: Seconds until a claim that cannot succeed ends. Bash counts the clock's whole seconds: of 2 at least 1 s passes.
GIVE_UP = "2"
CREDENTIALS = f"iam/security-credentials/{ROLE}"


def born(pid: int) -> str:
    """When a process started, in clock ticks since boot."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def since_boot() -> int:
    """Hundredths of a second."""
    return int(Path("/proc/uptime").read_text().split()[0].replace(".", ""))


class Node:
    """A load balancer's surroundings: keepalived's process and what it reported, files, the two services."""

    def __init__(self, folder: Path, stack: ExitStack, interface: str = MINE, ec2: Ec2 | None = None) -> None:
        self.keys = Keys.new()
        self.interface = interface
        self.metadata = Metadata(self.keys, interface)
        stack.enter_context(self.metadata.serving())
        if ec2 is None:
            ec2 = Ec2([], VIP, SUBNET, OTHER)
            stack.enter_context(ec2.serving())
        ec2.keys.append(self.keys)
        ec2.allowed.add(interface)
        self.ec2 = ec2
        self.keepalived = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(self.keepalived.kill)
        self.run_folder = folder / "run"
        self.run_folder.mkdir()
        self.kept_folder = folder / "lib" / "vip"
        #: How many of the machine's looks at its own metadata are behind the API.
        self.behind = 0
        self.metadata.addresses = self._addresses
        self.report("master")
        self.answer(1000)  # for longer than any test takes
        self._environment = folder / "vip.env"
        self.settings = {
            "VIP": VIP,
            "ENI": interface,
            "SUBNET": SUBNET,
            "REGION": REGION,
            "ENDPOINT": self.ec2.url,
            "ROLE": ROLE,
            "BETTER": "",
        }
        self.variables = {
            "MYCAT_HA_VIP_ENV": str(self._environment),
            "MYCAT_HA_RUN": str(self.run_folder),
            "MYCAT_HA_METADATA": self.metadata.url,
            "MYCAT_HA_KEEP": str(self.kept_folder),
            "MYCAT_HA_LIBRARY": str(FILES / "vip"),
            "CLAIM_SECONDS": "60",
            "PROBE_SECONDS": "1",
            "LOCK_SECONDS": "0.2",
        }
        self.stubs = Stubs(folder / "bin")
        stack.callback(self.stubs.end)
        self.stubs.add("getent", "exit 2")
        self.stubs.add("sleep")  # a pause is only written down

    def report(self, state: str) -> None:
        """As vrrp-notify writes down what keepalived says."""
        pid = self.keepalived.pid
        (self.run_folder / "vrrp").write_text(f"{state} {pid} {born(pid)} 1\n")

    def answer(self, seconds: float) -> None:
        """Keepalived's last sign of life is so far from now."""
        (self.run_folder / "pulse").write_text(f"{since_boot() + int(seconds * 100)}\n")

    def _addresses(self) -> list[str]:
        mine = self.ec2.holder == self.interface and self.behind <= 0
        self.behind -= self.ec2.holder == self.interface
        return ["192.168.106.251", *([VIP] if mine else [])]

    def lose(self) -> None:
        self.report("backup")

    def _write_settings(self) -> None:
        self._environment.write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in self.settings.items()))

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        self._write_settings()
        done = self.stubs.run("vip/claim-vip", command, **self.variables)
        assert "unbound variable" not in done.stderr
        assert "syntax error" not in done.stderr
        return done

    def start(self, command: str) -> "subprocess.Popen[str]":
        self._write_settings()
        return self.stubs.start("vip/claim-vip", command, **self.variables)

    def keep(self, keys: Keys) -> None:
        """As an earlier run leaves credentials."""
        self.kept_folder.mkdir(parents=True, exist_ok=True)
        words = {"KEY": keys.access, "SECRET": keys.secret, "TOKEN": keys.token}
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in words.items()]
        (self.kept_folder / "credentials").write_text("".join(lines) + f"EXPIRES={int(keys.expires.timestamp())}\n")

    def kept(self) -> str:
        """The access key that is kept."""
        path = self.kept_folder / "credentials"
        found = re.search(r"^KEY=(.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
        return found[1] if found else ""

    def earlier(self, seconds: float) -> None:
        """So much time has passed since the address was last taken back from a better one."""
        file = self.run_folder / "taken-back"
        times, last, rest = file.read_text().split(" ", 2)
        file.write_text(f"{times} {int(last) - int(seconds * 100)} {rest}")

    def pauses(self) -> list[float]:
        """Those of a claim, without the ones in which it looks whether the address stays."""
        called = self.stubs.calls("sleep")
        return [
            float(words) for words in (called[: -len(KEPT)] if called[-len(KEPT) :] == ["1"] * len(KEPT) else called)
        ]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with ExitStack() as stack:
        yield Node(tmp_path, stack)


def lines(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What was said, without the times."""
    return [re.sub(r" \(\d+ ms\)$", "", line) for line in done.stdout.splitlines()]


#: Looks at whether the address stays, after a claim has been verified.
KEPT = [DESCRIBE] * 3
CLAIMED = [
    f"attempt 1: EC2 has assigned {VIP} to {MINE}",
    f"claimed {VIP} for {MINE}",
    f"in effect: this machine's metadata has {VIP}",
]


# -- claim: the API's answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("holder", [None, MINE, OTHER])
def test_a_claim_is_one_write_and_one_look_whoever_holds_the_address(node: Node, holder: str | None) -> None:
    node.ec2.holder = holder
    done = node.run("claim")
    assert (done.returncode, lines(done), done.stderr) == (0, CLAIMED, "")
    assert node.ec2.actions() == [ASSIGN, DESCRIBE, *KEPT]
    assert node.ec2.holder == MINE
    assert node.ec2.calls[0] == {
        "Action": ASSIGN,
        "Version": "2016-11-15",
        "NetworkInterfaceId": MINE,
        "PrivateIpAddress.1": VIP,
        "AllowReassignment": "true",
    }
    assert node.pauses() == []


def test_every_line_tells_how_long_it_took(node: Node) -> None:
    said = node.run("claim").stdout.splitlines()
    assert said
    assert all(re.search(r" \(\d+ ms\)$", line) for line in said)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            error("RequestLimitExceeded", 503, "Request limit exceeded."),
            "RequestLimitExceeded: Request limit exceeded.",
        ),
        (error("Unavailable", 503, "busy"), "Unavailable: busy"),
        (error("InternalError", 500, "oops"), "InternalError: oops"),
        (error("InvalidNetworkInterfaceID.NotFound", 400, "gone"), "InvalidNetworkInterfaceID.NotFound: gone"),
        (Answer(502, "<html>Bad Gateway</html>"), "no answer from {}: status 502 <html>Bad Gateway</html>"),
        (Answer(500), "no answer from {}: status 500"),
        (Answer(200, "<html>Log in</html>"), "no answer from {}: status 200 <html>Log in</html>"),
        (Answer(200), "no answer from {}: status 200"),
        (DROP, "no answer from {}: status 000 curl: (52) Empty reply from server"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refused_write_is_named_and_tried_again(node: Node, answer: Answer, reason: str) -> None:
    node.ec2.planned[ASSIGN] = [answer, answer]
    done = node.run("claim")
    named = reason.format(node.ec2.url)
    said = lines(done)
    assert said[:2] == [f"attempt 1: {named}", f"attempt 2: {named}"]
    assert said[-2:] == CLAIMED[-2:]
    assert done.returncode == 0
    assert node.ec2.actions() == [ASSIGN, ASSIGN, ASSIGN, DESCRIBE, *KEPT]
    assert len(node.pauses()) == 2


def test_pauses_grow_and_are_bounded(node: Node) -> None:
    node.ec2.planned[ASSIGN] = [error("RequestLimitExceeded", 503)] * 30
    assert node.run("claim").returncode in {0, 1}
    tries = node.ec2.actions().count(ASSIGN)
    assert tries > 7
    pauses = node.pauses()
    limits = [0.12, 0.22, 0.42, 0.82]  # full jitter: up to 0.1 s, doubled each time
    assert all(0.02 <= pause <= limit for pause, limit in zip(pauses, limits, strict=False))
    # Then a part of a second and up to three whole ones.
    assert max(pauses) <= 3
    assert sum(pauses) <= sum(limits) + 4 * (tries - len(limits))


def test_a_write_that_hangs_ends_and_is_tried_again(node: Node) -> None:
    node.ec2.planned[ASSIGN] = [HANG]
    begun = time.monotonic()
    done = node.run("claim")
    assert done.returncode == 0
    assert re.match(rf"attempt 1: no answer from {node.ec2.url}: status 000 curl: \(28\)", lines(done)[0])
    assert time.monotonic() - begun < 30  # 2 s are its own limit


def test_a_write_that_was_done_but_not_answered_is_done_again_without_harm(node: Node) -> None:
    node.ec2.on[ASSIGN] = lambda: setattr(node.ec2, "holder", MINE)
    node.ec2.planned[ASSIGN] = [DROP]
    assert node.run("claim").returncode == 0
    assert (node.ec2.holder, node.ec2.actions()) == (MINE, [ASSIGN, ASSIGN, DESCRIBE, *KEPT])


def test_a_look_that_is_behind_the_write_is_repeated(node: Node) -> None:
    node.ec2.lag = 3
    done = node.run("claim")
    assert (done.returncode, lines(done)) == (0, CLAIMED)
    assert node.ec2.actions() == [ASSIGN, *[DESCRIBE] * 4, *KEPT]


def test_a_claim_tells_when_the_machine_itself_sees_the_address(node: Node) -> None:
    node.behind = 3
    done = node.run("claim")
    assert (done.returncode, lines(done)) == (0, CLAIMED)
    assert node.pauses() == [0.2] * 3


@pytest.mark.parametrize("gone", [False, True], ids=["behind", "gone"])
def test_metadata_that_never_shows_the_address_holds_nothing_up_for_long(node: Node, gone: bool) -> None:
    node.keep(node.keys)
    node.behind = 1000
    if gone:
        node.metadata.stop()
    done = node.run("claim")
    assert (done.returncode, lines(done)) == (0, [*CLAIMED[:2], f"this machine's metadata does not have {VIP}"])
    assert node.ec2.actions() == [ASSIGN, DESCRIBE, *KEPT]
    assert sum(node.pauses()) < 5.1


@pytest.mark.parametrize(
    ("systemctl", "told"),
    [("", False), ("exit 1", True), ("exec /bin/sleep 60", True)],
    ids=["well", "fails", "hangs"],
)
def test_the_users_own_script_is_left_to_systemd_once_the_claim_is_done(node: Node, systemctl: str, told: bool) -> None:
    node.settings["NOTIFY"] = "yes"
    node.stubs.add("systemctl", systemctl)
    done = node.run("claim")
    assert done.returncode == 0
    more = ["vip.notify: systemd does not run after-claim.service"] if told else []
    assert lines(done) == [*CLAIMED, *more]
    assert node.stubs.calls("systemctl") == ["--no-block restart after-claim.service"]
    assert node.ec2.actions() == [ASSIGN, DESCRIBE, *KEPT]


def test_without_a_claim_there_is_nothing_to_notify_of(node: Node) -> None:
    node.settings["NOTIFY"] = "yes"
    node.stubs.add("systemctl")
    node.lose()
    assert node.run("claim").returncode == 0
    node.report("master")
    node.ec2.holder = MINE
    assert node.run("reconcile").returncode == 0
    assert node.stubs.calls("systemctl") == []


def test_credentials_and_addresses_outlive_a_reboot(node: Node) -> None:
    """What /run had is gone, and so are the metadata service and the name server."""
    node.keep(node.keys)
    named(node)
    (node.kept_folder / "endpoint").write_text("127.0.0.1")
    for file in node.run_folder.iterdir():
        file.unlink()
    node.metadata.stop()
    node.report("master")
    node.answer(1000)
    assert node.run("claim").returncode == 0
    assert node.ec2.holder == MINE


def test_a_full_disk_does_not_prevent_a_claim(node: Node) -> None:
    node.kept_folder.parent.mkdir()
    node.kept_folder.write_text("")  # nothing can be kept
    done = node.run("claim")
    assert (done.returncode, node.ec2.holder) == (0, MINE)


def test_a_write_without_effect_is_done_again(node: Node) -> None:
    node.ec2.planned[DESCRIBE] = [Answer(200, node.ec2.described(OTHER))] * 5
    done = node.run("claim")
    assert done.returncode == 0
    assert f"assigned, but {OTHER} holds {VIP}" in lines(done)
    assert node.ec2.actions() == [ASSIGN, *[DESCRIBE] * 5, ASSIGN, DESCRIBE, *KEPT]


@pytest.mark.parametrize("answer", [error("RequestLimitExceeded", 503), Answer(200, "<html></html>"), DROP])
def test_a_look_that_fails_is_repeated(node: Node, answer: Answer) -> None:
    node.ec2.planned[DESCRIBE] = [answer, answer]
    done = node.run("claim")
    assert done.returncode == 0
    assert node.ec2.actions() == [ASSIGN, *[DESCRIBE] * 3, *KEPT]
    assert [line.split(":")[0] for line in lines(done)[1:3]] == ["look 1", "look 2"]


def test_an_address_whose_place_nobody_tells_is_not_said_to_be_nobodys(node: Node) -> None:
    node.ec2.planned[DESCRIBE] = [error("InternalError", 500)] * 5
    done = node.run("claim")
    assert done.returncode == 0
    assert "assigned, but not verified" in lines(done)
    assert "nobody" not in done.stdout


def test_a_claim_gives_up_in_the_end_and_says_so(node: Node) -> None:
    node.ec2.allowed = set()
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    done = node.run("claim")
    assert done.returncode == 1
    assert "UnauthorizedOperation: You are not authorized to perform this operation." in lines(done)[0]
    tries = node.ec2.actions().count(ASSIGN)
    assert lines(done)[-1] == f"giving up after {tries} attempts; the next reconcile tries again"
    assert node.ec2.holder == OTHER


def test_no_answer_at_all_is_the_end_after_the_limit(node: Node) -> None:
    node.ec2.stop()
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    done = node.run("claim")
    assert done.returncode == 1
    assert "status 000 curl: (7) Failed to connect" in lines(done)[0]


# -- claim: mastership --------------------------------------------------------------------------------------------


def test_a_backup_writes_nothing(node: Node) -> None:
    node.lose()
    done = node.run("claim")
    assert (done.returncode, lines(done)) == (0, [f"no longer master: leaving {VIP} where it is"])
    assert node.ec2.calls == []
    assert node.metadata.asked == []


@pytest.mark.parametrize("state", ["dead", "another process by now", "no report", "empty report", "fault", "stop"])
def test_mastership_is_what_a_living_keepalived_last_said(node: Node, state: str) -> None:
    report = node.run_folder / "vrrp"
    if state == "dead":
        node.keepalived.kill()
        node.keepalived.wait()
    elif state == "another process by now":
        report.write_text(f"master {node.keepalived.pid} {int(born(node.keepalived.pid)) - 1} 1\n")
    elif state == "no report":
        report.unlink()
    elif state == "empty report":
        report.write_text("")
    else:
        node.report(state)
    for command in ("claim", "reconcile"):
        assert node.run(command).returncode == 0
    assert node.ec2.calls == []


def test_a_claim_waits_for_a_keepalived_that_does_not_answer(node: Node) -> None:
    """It has just said that it is master, so somebody has to claim: but not before it answers."""
    node.answer(-60)
    node.variables["CLAIM_SECONDS"] = "60"
    node.stubs.add("sleep", "exec /bin/sleep 0.02")
    process = node.start("claim")
    wait_until(lambda: len(node.stubs.calls("sleep")) > 3)
    assert node.ec2.calls == []
    node.answer(1000)
    said, _ = process.communicate(timeout=60)
    assert "keepalived does not answer: waiting for it" in said
    assert f"claimed {VIP} for {MINE}" in said


def test_a_keepalived_that_hangs_claims_nothing(node: Node) -> None:
    node.answer(-60)
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    assert node.run("claim").returncode == 1
    assert node.run("reconcile").returncode == 0
    assert ASSIGN not in node.ec2.actions()


@pytest.mark.parametrize("seconds", [-2, 0, 0.9])
def test_drift_is_not_repaired_before_keepalived_has_answered_after_the_look(node: Node, seconds: float) -> None:
    """A sign of life of before it, though recent, may be the last one of a keepalived that hangs by now."""
    node.answer(seconds)
    done = node.run("reconcile")
    assert (done.returncode, node.ec2.actions(), node.ec2.holder) == (0, [DESCRIBE], OTHER)
    assert lines(done)[-1] == f"keepalived does not answer: leaving {VIP} where it is"


def test_drift_is_not_repaired_by_one_that_is_no_longer_master_when_it_answers(node: Node) -> None:
    node.ec2.on[DESCRIBE] = node.lose
    done = node.run("reconcile")
    assert (done.returncode, node.ec2.actions(), node.ec2.holder) == (0, [DESCRIBE], OTHER)


def test_mastership_lost_while_credentials_are_fetched_prevents_the_write(node: Node) -> None:
    node.metadata.on[CREDENTIALS] = node.lose
    done = node.run("claim")
    assert (done.returncode, lines(done)[-1]) == (0, f"no longer master: leaving {VIP} where it is")
    assert node.ec2.calls == []


def test_mastership_lost_after_a_failure_prevents_the_next_write(node: Node) -> None:
    node.ec2.planned[ASSIGN] = [error("RequestLimitExceeded", 503)] * 3
    node.ec2.on[ASSIGN] = node.lose
    done = node.run("claim")
    assert (done.returncode, lines(done)[-1]) == (0, f"no longer master: leaving {VIP} where it is")
    assert node.ec2.actions() == [ASSIGN]


def test_mastership_lost_after_the_write_ends_the_claim(node: Node) -> None:
    def stolen() -> None:
        node.lose()
        node.ec2.holder = OTHER

    node.ec2.on[DESCRIBE] = stolen
    done = node.run("claim")
    assert (done.returncode, lines(done)[-1]) == (0, f"no longer master: leaving {VIP} where it is")
    assert node.ec2.actions() == [ASSIGN, DESCRIBE]
    assert node.ec2.holder == OTHER


# -- claim: lock --------------------------------------------------------------------------------------------------


def test_a_claim_beside_another_one_gives_up_without_a_write(node: Node) -> None:
    with (node.run_folder / "claim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = node.run("claim")
    assert (done.returncode, node.ec2.calls) == (1, [])
    assert lines(done) == ["giving up: another claim has been running for 0.2 s"]


def test_a_claim_waits_for_the_one_before(node: Node) -> None:
    node.variables["LOCK_SECONDS"] = "60"
    node.stubs.add("flock", 'exec /usr/bin/flock "$@"')
    with (node.run_folder / "claim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = node.start("claim")
        wait_until(lambda: bool(node.stubs.calls("flock")))
        assert process.poll() is None
        assert node.ec2.calls == []
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"claimed {VIP} for {MINE}" in said


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


# -- credentials --------------------------------------------------------------------------------------------------


def test_credentials_are_fetched_with_a_token_and_kept_for_root_only(node: Node) -> None:
    assert node.run("claim").returncode == 0
    assert node.metadata.asked[:2] == ["api/token", CREDENTIALS]
    kept = node.kept_folder / "credentials"
    assert node.kept() == node.keys.access
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.kept_folder.stat().st_mode) == 0o700
    assert [path.name for path in node.kept_folder.iterdir()] == ["credentials"]


def test_kept_credentials_save_the_question(node: Node) -> None:
    node.keep(node.keys)
    assert node.run("claim").returncode == 0
    assert CREDENTIALS not in node.metadata.asked


def test_no_secret_is_in_a_command_line_or_in_the_output(node: Node) -> None:
    node.stubs.add("curl", 'exec /usr/bin/curl "$@"')
    node.ec2.planned[ASSIGN] = [error("AuthFailure", 401)]
    done = node.run("claim")
    assert done.returncode == 0
    assert node.stubs.calls("curl")
    everything = "\n".join([*node.stubs.calls(), done.stdout, done.stderr])
    for secret in (node.keys.secret, node.keys.token, *node.metadata.tokens):
        assert secret not in everything


def test_credentials_that_end_soon_are_replaced(node: Node) -> None:
    old = Keys.new(timedelta(minutes=9))
    node.keep(old)
    assert node.run("claim").returncode == 0
    assert node.kept() == node.keys.access


def test_expired_credentials_are_replaced(node: Node) -> None:
    node.keep(Keys.new(timedelta(minutes=-1)))
    assert node.run("claim").returncode == 0
    assert node.kept() == node.keys.access
    assert node.ec2.actions() == [ASSIGN, DESCRIBE, *KEPT]


def test_credentials_that_end_soon_do_without_the_metadata_service(node: Node) -> None:
    old = Keys.new(timedelta(minutes=9))
    node.ec2.keys.append(old)
    node.keep(old)
    node.metadata.stop()
    done = node.run("claim")
    assert done.returncode == 0
    assert lines(done)[0] == "metadata service does not answer: using the credentials kept"
    assert node.ec2.holder == MINE


@pytest.mark.parametrize(
    "code", ["AuthFailure", "ExpiredToken", "RequestExpired", "InvalidClientTokenId", "UnauthorizedOperation"]
)
def test_rotated_credentials_are_fetched_anew(node: Node, code: str) -> None:
    rotated = Keys.new()
    node.keep(rotated)
    node.ec2.planned[ASSIGN] = [error(code, 401)]
    done = node.run("claim")
    assert done.returncode == 0
    assert lines(done)[0] == f"attempt 1: {code}: no"
    assert lines(done)[-2:] == CLAIMED[-2:]
    assert node.kept() == node.keys.access


def test_other_failures_do_not_ask_the_metadata_service(node: Node) -> None:
    node.keep(node.keys)
    node.ec2.planned[ASSIGN] = [error("RequestLimitExceeded", 503)]
    assert node.run("claim").returncode == 0
    assert CREDENTIALS not in node.metadata.asked


def test_a_rotation_during_an_outage_of_the_metadata_service_is_survived(node: Node) -> None:
    node.keep(Keys.new())
    node.metadata.planned[CREDENTIALS] = [Answer(503), Answer(503)]
    done = node.run("claim")
    assert done.returncode == 0
    assert lines(done).count("metadata service does not answer: using the credentials kept") == 2
    assert node.ec2.holder == MINE


def test_without_any_credentials_nothing_is_written(node: Node) -> None:
    node.metadata.stop()
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    done = node.run("claim")
    reason = f"no credentials: the metadata service does not give those of role {ROLE}"
    assert (done.returncode, lines(done)[0]) == (1, f"attempt 1: {reason}")
    assert node.ec2.calls == []


def test_expired_credentials_are_not_used_though_the_metadata_service_is_gone(node: Node) -> None:
    node.keep(Keys.new(timedelta(minutes=-1)))
    node.metadata.stop()
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    done = node.run("claim")
    assert (done.returncode, node.ec2.calls) == (1, [])


@pytest.mark.parametrize("name", ["api/token", CREDENTIALS])
@pytest.mark.parametrize("answer", [HANG, Answer(401), Answer(503), Answer(404)], ids=["hang", "401", "503", "404"])
def test_a_failure_of_the_metadata_service_costs_one_attempt(node: Node, name: str, answer: Answer) -> None:
    """Every attempt gets a token of its own: an old one that is refused (401) is not tried again."""
    node.metadata.planned[name] = [answer]
    begun = time.monotonic()
    done = node.run("claim")
    assert time.monotonic() - begun < 30  # a question's own limit is 1 s
    assert done.returncode == 0
    assert lines(done)[0].startswith("attempt 1: no credentials: ")
    assert lines(done)[-2:] == CLAIMED[-2:]
    assert node.metadata.asked[: node.metadata.asked.index("mac")].count("api/token") == 3


MALFORMED = {
    "empty": "",
    "not JSON": "<html></html>",
    "refused": '{"Code": "AssumeRoleUnauthorizedAccess"}',
    "half of it": Keys.new().document(SecretAccessKey=None),
    "no token": Keys.new().document(Token=None),
    "no end": Keys.new().document(Expiration=None),
    "a wrong end": Keys.new().document(Expiration="tomorrowish"),
}


@pytest.mark.parametrize("document", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_document_does_not_replace_credentials_that_work(node: Node, document: str) -> None:
    old = Keys.new(timedelta(minutes=9))
    node.ec2.keys.append(old)
    node.keep(old)
    node.metadata.planned[CREDENTIALS] = [Answer(200, document)] * 2
    done = node.run("claim")
    assert done.returncode == 0
    assert node.kept() == old.access
    assert node.ec2.actions() == [ASSIGN, DESCRIBE, *KEPT]


# -- the API's name -----------------------------------------------------------------------------------------------


def named(node: Node) -> str:
    """An endpoint by a name that no name server knows."""
    node.settings["ENDPOINT"] = f"http://ec2.example.invalid:{node.ec2.port}"
    return f"ec2.example.invalid:{node.ec2.port}"


def test_a_named_endpoint_is_reached_by_its_pinned_address(node: Node) -> None:
    host = named(node)
    node.kept_folder.mkdir(parents=True)
    (node.kept_folder / "endpoint").write_text("127.0.0.1")
    done = node.run("claim")
    assert (done.returncode, lines(done)) == (0, CLAIMED)
    assert node.ec2.hosts == [host] * (2 + len(KEPT))
    assert node.stubs.calls("getent") == []


def test_the_second_pinned_address_is_used_if_the_first_is_dead(node: Node) -> None:
    named(node)
    node.kept_folder.mkdir(parents=True)
    (node.kept_folder / "endpoint").write_text("127.255.255.254,127.0.0.1")
    done = node.run("claim")
    assert (done.returncode, lines(done)) == (0, CLAIMED)


def test_a_name_that_is_not_known_fails_with_the_reason(node: Node) -> None:
    named(node)
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    done = node.run("claim")
    assert done.returncode == 1
    assert "Could not resolve host: ec2.example.invalid" in lines(done)[0]


def test_reconcile_pins_the_endpoints_addresses(node: Node) -> None:
    named(node)
    node.stubs.add("getent", "printf '127.0.0.1 STREAM x\\n127.0.0.1 DGRAM\\n127.0.0.9 STREAM\\n'")
    node.ec2.holder = MINE
    assert node.run("reconcile").returncode == 0
    assert node.stubs.calls("getent") == ["ahostsv4 ec2.example.invalid"]
    assert (node.kept_folder / "endpoint").read_text() == "127.0.0.1,127.0.0.9"


def test_a_name_server_that_fails_leaves_the_pinned_addresses(node: Node) -> None:
    named(node)
    node.kept_folder.mkdir(parents=True)
    (node.kept_folder / "endpoint").write_text("127.0.0.1")
    node.ec2.holder = MINE
    assert node.run("reconcile").returncode == 0
    assert node.stubs.calls("getent")
    assert (node.kept_folder / "endpoint").read_text() == "127.0.0.1"


def test_a_numeric_endpoint_needs_no_name_server(node: Node) -> None:
    node.ec2.holder = MINE
    assert node.run("reconcile").returncode == 0
    assert node.stubs.calls("getent") == []
    assert not (node.kept_folder / "endpoint").exists()


# -- reconcile ----------------------------------------------------------------------------------------------------


def test_reconcile_on_a_backup_only_keeps_credentials_fresh(node: Node) -> None:
    node.lose()
    done = node.run("reconcile")
    assert (done.returncode, done.stdout, node.ec2.calls) == (0, "", [])
    assert node.kept() == node.keys.access


def test_reconcile_on_the_master_that_holds_the_address_only_looks(node: Node) -> None:
    node.ec2.holder = MINE
    done = node.run("reconcile")
    assert (done.returncode, done.stdout, node.ec2.actions()) == (0, "", [DESCRIBE])


def drift(holder: str | None) -> str:
    return f"drift: {holder or 'nobody'} holds {VIP} although this machine is master"


def left(minutes: int) -> str:
    return f"{OTHER} has a higher priority and has taken it again: leaving it there for {minutes} min"


@pytest.mark.parametrize(("holder", "better"), [(OTHER, "eni-1 eni-2"), (None, OTHER), (OTHER, "")])
def test_a_drifted_address_is_taken_back_from_whom_is_no_better(node: Node, holder: str | None, better: str) -> None:
    for _ in range(2):
        node.ec2.holder = holder
        node.settings["BETTER"] = better
        done = node.run("reconcile")
        assert (done.returncode, lines(done)) == (0, [drift(holder), *CLAIMED])
        assert node.ec2.holder == MINE


def test_an_address_is_taken_back_from_a_better_one_ever_more_rarely(node: Node) -> None:
    """A late claim of one that is no longer master happens once; one that is master takes it again each time."""
    node.settings["BETTER"] = f"eni-1 {OTHER}"
    assert node.run("claim").returncode == 0
    node.ec2.holder = OTHER
    assert node.run("reconcile").returncode == 0
    assert node.ec2.holder == MINE
    for minutes in (1, 4, 16, 60, 60):
        node.ec2.holder = OTHER
        done = node.run("reconcile")
        assert (done.returncode, lines(done)) == (0, [drift(OTHER), left(minutes)])
        node.earlier(minutes * 60)
        assert node.run("reconcile").returncode == 0
        assert node.ec2.holder == MINE
    node.ec2.holder = OTHER
    node.earlier(4 * 3600)
    assert node.run("reconcile").returncode == 0
    node.ec2.holder = OTHER
    assert lines(node.run("reconcile"))[-1] == left(1), "after four hours of peace it begins anew"


def test_a_new_master_takes_the_address_from_a_better_one_whatever_has_been(node: Node) -> None:
    """That one may be dead."""
    node.settings["BETTER"] = OTHER
    (node.run_folder / "taken-back").write_text(f"4 {since_boot()} master {node.keepalived.pid} 1 1\n")
    (node.run_folder / "claimed").write_text(f"master {node.keepalived.pid} 1 1\n")  # of an earlier time
    assert node.run("reconcile").returncode == 0
    assert node.ec2.holder == MINE


def test_a_late_call_of_the_master_before_is_noticed_at_once(node: Node) -> None:
    node.settings["BETTER"] = OTHER
    looks = 0

    def late() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:  # after the claim was verified
            node.ec2.holder = OTHER

    node.ec2.on[DESCRIBE] = late
    done = node.run("claim")
    assert (done.returncode, node.ec2.holder) == (0, MINE)
    assert lines(done).count(CLAIMED[1]) == 2
    assert drift(OTHER) in lines(done)


@pytest.mark.parametrize("first", [0, 1], ids=["better first", "worse first"])
@pytest.mark.parametrize("before", [0, 1], ids=["better held it", "worse held it"])
def test_two_masters_that_do_not_hear_each_other_agree_after_a_few_moves(
    tmp_path: Path, first: int, before: int
) -> None:
    """However their looks follow each other: the one of higher priority keeps the address, and the other leaves it."""
    interfaces = ["eni-better", "eni-worse"]
    with ExitStack() as stack:
        ec2 = Ec2([], VIP, SUBNET, interfaces[before])
        stack.enter_context(ec2.serving())
        nodes = []
        for number, interface in enumerate(interfaces):
            (tmp_path / interface).mkdir()
            nodes.append(Node(tmp_path / interface, stack, interface, ec2))
            nodes[-1].settings["BETTER"] = " ".join(interfaces[:number])
        # Each has claimed when it became master, the one that held it long ago.
        holders = [ec2.holder]
        for number in (before, 1 - before):
            assert nodes[number].run("claim").returncode == 0
            holders.append(ec2.holder)
        for _ in range(5):
            for number in (first, 1 - first):
                assert nodes[number].run("reconcile").returncode == 0
                holders.append(ec2.holder)
    moves = sum(1 for earlier, later in itertools.pairwise(holders) if earlier != later)
    assert moves <= 4
    assert holders[-6:] == ["eni-better"] * 6


@pytest.mark.parametrize(
    "answer",
    [
        error("RequestLimitExceeded", 503),
        Answer(200, "<html>Log in</html>"),
        Answer(200),
        DROP,
        HANG,
        cut(Answer(200, Ec2.described(None))),
        cut(Answer(200, Ec2.described(MINE))),
    ],
    ids=["throttled", "not EC2", "empty", "dropped", "hangs", "cut", "cut, ours"],
)
def test_a_look_without_an_answer_is_not_drift(node: Node, answer: Answer) -> None:
    node.ec2.planned[DESCRIBE] = [answer]
    begun = time.monotonic()
    done = node.run("reconcile")
    assert time.monotonic() - begun < 30  # 3 s are its own limit
    assert done.returncode == 1
    assert "drift" not in done.stdout
    assert done.stdout
    assert node.ec2.actions() == [DESCRIBE]


def test_reconcile_tells_when_the_metadata_service_is_gone_and_goes_on(node: Node) -> None:
    node.keep(node.keys)
    node.metadata.stop()
    done = node.run("reconcile")
    assert (done.returncode, node.ec2.holder) == (0, MINE)
    assert lines(done)[0] == "metadata service does not answer: using the credentials kept"


def test_reconcile_without_credentials_fails_and_does_not_ask_the_api(node: Node) -> None:
    node.metadata.stop()
    done = node.run("reconcile")
    assert done.returncode == 1
    assert lines(done) == [f"no credentials: the metadata service does not give those of role {ROLE}"]
    assert node.ec2.calls == []


def test_a_claim_of_reconcile_that_fails_is_not_forgotten(node: Node) -> None:
    node.ec2.allowed = set()
    node.variables["CLAIM_SECONDS"] = GIVE_UP
    assert node.run("reconcile").returncode == 1
    node.ec2.allowed = {MINE}
    assert node.run("reconcile").returncode == 0
    assert node.ec2.holder == MINE


# -- probe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holder", [OTHER, MINE])
def test_probe_proves_the_permission_and_moves_nothing(node: Node, holder: str) -> None:
    node.ec2.holder = holder
    node.lose()  # it does not take a master
    done = node.run("probe")
    assert done.returncode == 0
    assert lines(done) == [f"probe: {ROLE} may claim {VIP} for {MINE} at {node.ec2.url}; {holder} holds it"]
    assert node.ec2.holder == holder
    assert node.ec2.calls[-1] == {
        "Action": ASSIGN,
        "Version": "2016-11-15",
        "NetworkInterfaceId": MINE,
        "PrivateIpAddress.1": VIP,
        "AllowReassignment": "false",
    }


def refused(node: Node, reason: str) -> None:
    done = node.run("probe")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"the virtual IP would not move to this machine: {reason}" in done.stderr
    assert f"check the role's policy, and that {node.settings['ENDPOINT']} is reachable from the subnet" in done.stderr


def test_probe_without_the_permission(node: Node) -> None:
    node.ec2.allowed = set()
    refused(node, "UnauthorizedOperation: You are not authorized to perform this operation.")


def test_probe_proves_the_permission_though_nobody_holds_the_address_and_does_not_assign_it(node: Node) -> None:
    node.ec2.holder = None
    done = node.run("probe")
    assert done.returncode == 0
    assert lines(done) == [f"probe: {ROLE} may claim {VIP} for {MINE} at {node.ec2.url}; nobody holds it"]
    assert node.ec2.holder is None
    assert node.ec2.actions() == [DESCRIBE, ASSIGN]


def test_probe_without_the_permission_and_nobody_holds_the_address(node: Node) -> None:
    node.ec2.holder, node.ec2.allowed = None, set()
    refused(node, "UnauthorizedOperation: You are not authorized to perform this operation.")


# -- settled ------------------------------------------------------------------------------------------------------


def test_a_master_has_settled_when_it_has_claimed_since_it_is_master(node: Node) -> None:
    node.keep(node.keys)
    assert node.run("settled").returncode == 1
    assert node.run("claim").returncode == 0
    assert node.run("settled").returncode == 0
    report = node.run_folder / "vrrp"
    report.write_text(report.read_text().replace(" 1\n", " 2\n"))  # backup in between, and master again
    assert node.run("settled").returncode == 1


@pytest.mark.parametrize(("holder", "status"), [(OTHER, 0), (None, 1)])
def test_a_backup_has_settled_when_somebody_holds_the_address(node: Node, holder: str | None, status: int) -> None:
    node.lose()
    node.ec2.holder = holder
    assert node.run("settled").returncode == status
    assert ASSIGN not in node.ec2.actions()


@pytest.mark.parametrize("state", ["fault", "stop"])
def test_a_balancer_that_is_not_fit_has_not_settled(node: Node, state: str) -> None:
    node.report(state)
    assert node.run("settled").returncode == 1


def test_probe_without_the_api(node: Node) -> None:
    node.ec2.stop()
    refused(node, f"no answer from {node.ec2.url}: status 000 curl: (7)")


def test_probe_without_the_metadata_service(node: Node) -> None:
    node.keep(node.keys)  # of an earlier life: they prove nothing
    node.metadata.stop()
    refused(node, "the metadata service does not answer")


def test_probe_without_the_role(node: Node) -> None:
    node.keep(node.keys)
    node.settings["ROLE"] = "another"
    refused(node, "no credentials: the metadata service does not give those of role another")


def test_probe_on_another_interface(node: Node) -> None:
    node.metadata.interface = OTHER
    done = node.run("probe")
    assert (done.returncode, done.stderr) == (1, f"this machine's interface is not {MINE}\n")
    assert node.ec2.calls == []


@pytest.mark.parametrize("name", ["mac", "network/interfaces/macs/02:00:00:00:00:01/interface-id", CREDENTIALS])
def test_probe_outlives_a_failure_of_the_metadata_service(node: Node, name: str) -> None:
    node.metadata.planned[name] = [Answer(503)]
    node.variables["PROBE_SECONDS"] = "20"
    assert node.run("probe").returncode == 0


@pytest.mark.parametrize("action", [DESCRIBE, ASSIGN])
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AuthFailure", "RequestLimitExceeded"])
def test_probe_waits_until_a_new_role_is_known(node: Node, action: str, code: str) -> None:
    node.ec2.planned[action] = [error(code, 403)] * 2
    node.variables["PROBE_SECONDS"] = "20"
    done = node.run("probe")
    assert done.returncode == 0
    assert node.pauses() == [3, 3]


# -- hand-over -----------------------------------------------------------------------------------------------------

SERVED_LOCALLY = f"local {VIP} dev lo table local metric 1"


@pytest.fixture
def leaving(node: Node) -> Node:
    """A holder whose keepalived stops, and whose calls are in order."""
    node.stubs.add("ip")
    node.stubs.add("systemctl")
    return node


def test_who_hands_over_serves_until_the_move_has_taken_effect(leaving: Node) -> None:
    leaving.ec2.holder = MINE
    looks = 0

    def move() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            leaving.ec2.holder = OTHER

    leaving.metadata.on["mac"] = move
    assert leaving.run("hand-over").returncode == 0
    assert leaving.stubs.calls() == [
        f"ip route replace {SERVED_LOCALLY}",
        "systemctl --job-mode=ignore-dependencies stop keepalived.service",
        "sleep 0.2",
        "sleep 0.2",
        f"ip route delete {SERVED_LOCALLY}",
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_move_that_never_comes_is_not_waited_for_longer(leaving: Node, fails: bool) -> None:
    """Nor is a metadata service that does not answer taken for one that no longer has the address."""
    leaving.ec2.holder = MINE
    if fails:
        leaving.metadata.planned["mac"] = [Answer(500)] * 60
    done = leaving.run("hand-over")
    assert done.returncode == 0
    assert len(leaving.pauses()) == 50
    assert "metadata still has" in done.stdout
    assert leaving.stubs.calls("ip")[-1] == f"route delete {SERVED_LOCALLY}"


# -- usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "release"])
def test_anything_else_is_refused(node: Node, command: str) -> None:
    done = node.run(command)
    assert (done.returncode, done.stderr) == (64, "usage: claim-vip claim|reconcile|probe|settled|hand-over\n")
    assert node.ec2.calls == []
