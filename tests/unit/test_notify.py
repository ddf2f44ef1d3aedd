"""The user's own script after a claim (`vip.notify`): refused if it cannot be one, else there before it is needed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.claim import INTERPRETER
from settings import Settings, SettingsError
from tests import example
from tests.unit.conftest import Run

SCRIPT = '#!/bin/sh\necho "$VIP is here" | logger\n'


def settings(script: Path) -> dict[str, Any]:
    return example.settings(lambda raw: raw["vip"].update(notify=str(script)))


def test_the_script_and_its_unit_are_there_before_a_claim_asks_for_them(tmp_path: Path, run_program: Run) -> None:
    (tmp_path / "script").write_text(SCRIPT)
    recorded = run_program(settings(tmp_path / "script"))
    for balancer in ("node1", "node2"):
        command = recorded.named(f"{balancer}-vip-notify-file")
        assert command.stdin == SCRIPT
        assert "install-file /etc/mycat-ha/after-claim 0700 root:root" in command.inputs["create"]
        assert "TimeoutStartSec=60" in recorded.named(f"{balancer}-vip-notify-service-file").stdin
        assert "\nNOTIFY=yes\n" in recorded.named(f"{balancer}-vip-environment-file").stdin
        first = {f"{balancer}-vip-notify-file", f"{balancer}-vip-notify-service-file"}
        assert first <= recorded.depends_on[f"{balancer}-vip-environment"]


def test_without_the_setting_nothing_is_asked_for(run_program: Run) -> None:
    recorded = run_program()
    assert "NOTIFY" not in recorded.named("node1-vip-environment-file").stdin
    assert [each.name for each in recorded.resources if "-notify" in each.name and "vip" in each.name] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory"),
        (b"", "has to begin with #!"),
        (b"echo hello\n", "has to begin with #!"),
        (b"#!/bin/sh\n\xff", "codec can't decode"),
    ],
)
def test_what_cannot_be_a_script_is_refused_by_its_key(tmp_path: Path, text: bytes | None, words: str) -> None:
    if text is not None:
        (tmp_path / "script").write_bytes(text)
    with pytest.raises(SettingsError) as error:
        Settings.parse(settings(tmp_path / "script"))
    assert f"mycat-ha:vip.notify: {tmp_path / 'script'}: " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SCRIPT, ""),
        ("#!/usr/bin/env python3\nprint()\n", ""),
        ("#! /bin/bash -e\ntrue\n", ""),
        ("#!/opt/ruby\n", "there is no /opt/ruby here"),
        ("#!/bin/bash\nif then\n", "syntax error"),
    ],
)
def test_a_machine_refuses_what_it_cannot_run(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "staged").write_text(text)
    argv = ["bash", "-uo", "pipefail", "-c", INTERPRETER]
    done = subprocess.run(argv, env={"STAGED": str(tmp_path / "staged")}, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is not bool(words)
    assert words in done.stdout + done.stderr
