"""One stack on a region of its own, for every test that needs the real thing. It is made when the first one asks."""

import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from drills.stack import Stack
from localregion.client import Region
from stackctl import project
from stackctl.pulumi import Pulumi, stack_names

ROOT = Path(__file__).parents[1]


def region_of(worker: str) -> str:
    return f"e2e{worker}"


#: Each of pytest-xdist's processes has a region and a stack of its own.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
REGION = region_of(_WORKER)
NAME, NET = f"test-check{_WORKER}", f"192.168.{107 + 10 * int(_WORKER.removeprefix('gw') or 0)}"
OFFICE = "10.20.0.0/24"
Stackctl = Callable[..., str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--random-order", type=int, metavar="SEED", help="run modules, and the tests in each, in this order"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it runs in the background with this signal ignored, which every program of a test inherits.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "last: the test leaves a stack that others do not expect; it runs after them")
    config.addinivalue_line("markers", "destroys(fixture): the test destroys the stack of this fixture; it runs last")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Random order within SEED, except that what changes a stack for good, or destroys it, is the last that uses it."""
    seed = config.getoption("--random-order")
    if seed is None:
        return
    chance = random.Random(seed)
    by_module: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_module.setdefault(item.path, []).append(item)

    def last(item: pytest.Item) -> int:
        return 2 if item.get_closest_marker("destroys") else 1 if item.get_closest_marker("last") else 0

    modules = list(by_module.values())
    chance.shuffle(modules)
    for module in modules:
        chance.shuffle(module)
        module.sort(key=last)
    modules.sort(key=lambda module: min(map(last, module)))
    items[:] = [item for module in modules for item in module]


def pytest_collection_finish() -> None:
    """What has been imported stays: it is left out of the garbage collector's rounds, a third of all processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def region() -> Iterator[Region]:
    if "PULUMI_BACKEND_URL" not in os.environ:
        pytest.fail("run the tests behind `python3 -m toolchain exec --`, as `make test` does", pytrace=False)
    if not os.environ["PULUMI_BACKEND_URL"].startswith("file://"):
        pytest.fail("unset PULUMI_BACKEND_URL: a shared backend is no place for the tests' stacks", pytrace=False)
    region = Region(REGION)
    region.stop()
    region.start()
    yield region
    (ROOT / f".local/test-region-{REGION}.log").write_text(region.log())
    region.stop()


@pytest.fixture
def aws(region: Region, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    """The region's administrator; not boto3's default session, which keeps what it first found."""
    for name, value in region.env().items():
        monkeypatch.setitem(os.environ, name, value)
    return boto3.Session()


@pytest.fixture(scope="session")
def stackctl(region: Region) -> Stackctl:
    """Run stackctl on the test's region; fails the test with its words unless ``check`` is off."""

    def run(command: str, *words: str, check: bool = True) -> str:
        own, pulumi = (words[: words.index("--")], words[words.index("--") :]) if "--" in words else (words, ())
        argv = [sys.executable, "-m", "stackctl", command, *own, "--region-env", REGION, *pulumi]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        printed = done.stdout + done.stderr
        if check and done.returncode:
            pytest.fail(f"{' '.join(argv)}: exit status {done.returncode}\n{printed[-6000:]}", pytrace=False)
        return printed

    return run


@pytest.fixture(scope="session")
def stack(region: Region, stackctl: Stackctl) -> Iterator[Stack]:
    """The recipe's topology in a range of its own, as ``stackctl create`` makes it."""
    with created(NAME, NET, region, stackctl) as stack:
        region.add_host("client", f"{NET}.41")
        region.add_host("office", "10.20.0.10")
        region.add_host("outsider", "10.66.0.10")
        region.attach(NAME, source="10.66.0.0/24")  # what keeps it out is the firewall
        yield stack


@contextmanager
def created(name: str, net: str, region: Region, stackctl: Stackctl, *words: str) -> Iterator[Stack]:
    """A test stack in NET.0/24; destroyed afterwards, unless a test has done that."""
    forget(name)
    stackctl("create", *create_words(name, net), *words)
    try:
        region.attach(name)
        region.attach(name, source=OFFICE)
        yield Stack.read(name)
    finally:
        region.clear_faults()
        if name in stack_names():
            stackctl("destroy", name, "--really-destroy", name)


def create_words(name: str, net: str) -> list[str]:
    """The local stack's settings, in NET.0/24."""
    return [
        *(name.removeprefix("test-"), "--from", "local", "--cidr", f"{net}.0/24"),
        *("--owner", "tests", "--expires", "2h"),
    ]


def forget(name: str) -> None:
    """A stack of an earlier run that was killed: its region is gone, so only its state is left."""
    pulumi = Pulumi(project.Stack(name))
    if pulumi.exists():
        pulumi.remove(force=True)
    pulumi.stack.generated.unlink(missing_ok=True)
