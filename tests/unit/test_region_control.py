"""The region's control socket: as many may ask at the same moment as there are machines."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localregion import paths
from localregion.client import Region, RegionError
from localregion.control import serve_control


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "control"
    monkeypatch.setattr(paths, "control", lambda _name: path)
    return path


def test_who_comes_while_the_queue_is_full_waits(control: Path) -> None:
    """A connect(2) that fails with EAGAIN looks as if no region ran."""
    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(10) as pool:
        listening.bind(str(control))
        listening.listen(0)
        listening.settimeout(5)
        asked = [pool.submit(Region("control").status) for _ in range(10)]
        time.sleep(0.3)  # all have come by then, or one has failed already
        for _ in asked:
            connection, _peer = listening.accept()
            with connection, connection.makefile() as lines:
                assert json.loads(lines.readline())["verb"] == "status"
                connection.sendall(b'{"result": {"machines": []}}\n')
        assert [one.result() for one in asked] == [{"machines": []}] * 10


def test_no_region_is_said_with_what_to_do(control: Path) -> None:
    with pytest.raises(RegionError, match="'control' does not run: start it with"):
        Region("control").status()


def test_a_refusal_is_an_error_and_the_next_request_is_served(control: Path) -> None:
    serve_control(control, {"status": lambda: {"machines": []}})
    with pytest.raises(RegionError, match="no such verb: add_host"):
        Region("control").add_host("client", "10.0.0.1")
    assert Region("control").status() == {"machines": []}
