"""A second stack beside the first one: dedicated tiers, three balancers as the recipe sets them, web servers."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drills.stack import Stack
from localregion.client import Region
from tests import example
from tests.conftest import Stackctl, created, region_of
from tests.stack.clients import FOLDER
from tests.stack.whole import NotWholeError, make_whole

TIERS = "test-tiers"
CLIENT = "tiers-client"
EDGE_CLIENT = "edge-client"
NET = "192.168.108"
MAIL = f"{NET}.42"

Mailbox = Callable[[], list[dict[str, Any]]]


def _settings() -> dict[str, Any]:
    roles = {"lb": (141, 3), "mycat": (151, 2), "mysql": (161, 3), "web": (171, 2)}
    names = {"mysql": "node"}  # as in the stack that is copied, whose Mycat knows them by name
    machines = [
        {"name": f"{names.get(role, role)}{i + 1}", "address": f"{NET}.{first + i}", "roles": [role]}
        for role, (first, count) in roles.items()
        for i in range(count)
    ]
    mail = {"to": ["ops@example.com", "dba@example.com"], "sender": "vrrp@example.com", "smtpServer": MAIL}
    return {
        "machines": machines,
        "http": example.settings(example.static_and_dynamic)["http"],
        "keepalived.mode": "seed",
        "keepalived.mail": mail,
        "haproxy.mysql.proxyProtocol": True,
        "haproxy.statistics": {"tls": {"names": [f"lb.{TIERS}.example"]}},
        "database.tls": {"names": [f"db.{TIERS}.example"]},
        "database.galera.tls": "required",
        "tags.mycat-ha:protected": "true",
    }


#: The fixtures that are stacks, and a test host that may use each one's VIP.
STACKS = {"stack": "client", "tiers": CLIENT, "edge": EDGE_CLIENT}


#: What the test before has left whole, so that it need not be looked at again.
_LEFT_WHOLE: set[str] = set()


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest, region: Region) -> Iterator[None]:
    """Every test starts with whole stacks and leaves them whole, whatever becomes of it.

    So each can be run alone, and all in any order. What a test has broken and not mended itself is a warning; what
    cannot be mended fails it. A test that destroys a stack says so: ``@pytest.mark.destroys("stack")``.
    """
    stacks = {name: request.getfixturevalue(name) for name in STACKS if name in request.fixturenames}
    for name in stacks.keys() - _LEFT_WHOLE:
        try:
            make_whole(region, stacks[name], STACKS[name])
        except NotWholeError as error:
            pytest.fail(f"before the test, which was not run: {error}", pytrace=False)
    _LEFT_WHOLE.clear()
    yield
    marker = request.node.get_closest_marker("destroys")
    for name, stack in stacks.items():
        if marker and name in marker.args:
            continue
        try:
            helped = make_whole(region, stack, STACKS[name])
        except NotWholeError as error:
            pytest.fail(f"the test has left broken what nothing mends: {error}", pytrace=False)
        _LEFT_WHOLE.add(name)
        if helped:
            warnings.warn(f"{request.node.nodeid} did not mend what it broke: {'; '.join(helped)}", stacklevel=1)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Processes of pytest-xdist that are interrupted end without a teardown: their regions are stopped for them."""
    for number in range(getattr(session.config.option, "numprocesses", None) or 0):
        Region(region_of(f"gw{number}")).stop()


@pytest.fixture(scope="session")
def tiers(region: Region, stack: Stack, stackctl: Stackctl) -> Iterator[Stack]:
    words = [word for key, value in _settings().items() for word in ("--set", f"{key}={json.dumps(value)}")]
    with created(TIERS, NET, region, stackctl, *words) as tiers:
        region.add_host(CLIENT, f"{NET}.41")
        yield tiers


@pytest.fixture(scope="session")
def mailbox(region: Region, tiers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailbox]:
    """Every mail so far that the balancers' mail server got."""
    mails = tmp_path_factory.mktemp("mail") / "mails"
    region.add_host("mail", MAIL)
    with mails.open("wb") as output:
        command = [sys.executable, str(FOLDER / "smtp_sink.py"), MAIL, "25"]
        sink = region.popen("mail", command, stdin=subprocess.DEVNULL, stdout=output)
    yield lambda: [json.loads(line) for line in mails.read_text().splitlines()]
    sink.kill()
    sink.wait()
