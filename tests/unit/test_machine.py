"""What every machine gets: looked at before anything is put on it, and its times for security updates."""

import configparser
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from components.template import render, verbatim
from tests.programs import Stubs
from toolchain.paths import ROOT


@pytest.mark.parametrize("program", ["setup-policy-routes", "ec2ifup"])
def test_an_ami_that_adds_addresses_by_itself_is_refused(program: str, tmp_path: Path) -> None:
    stubs = Stubs(tmp_path / "bin")
    for name in ("cloud-init", "install", program):
        stubs.add(name)
    script = render("machine/ready.sh.j2")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=stubs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "amazon-ec2-net-utils" in done.stderr
    assert "mycat-ha:instances.image" in done.stderr
    assert not stubs.calls("install")


def test_only_root_reaches_the_metadata_service_from_boot_on() -> None:
    (rule,) = re.findall(r"^ *(ip daddr .*)$", verbatim("machine/metadata.nft"), re.MULTILINE)
    assert rule == "ip daddr 169.254.169.254 meta skuid != 0 reject with icmp type admin-prohibited"
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(verbatim("machine/guard-metadata.service"))
    assert unit["Service"]["ExecStart"] == "/usr/sbin/nft -f /etc/mycat-ha/metadata.nft"
    assert unit["Install"]["WantedBy"] == "sysinit.target"  # before any service of the stack
    assert "network-pre.target" in unit["Unit"]["Before"]
    # Debian's own rules are loaded by a flush of all tables.
    assert "nftables.service" in unit["Unit"]["After"]
    assert unit["Unit"]["PartOf"] == "nftables.service"


def upgrades(hour: int) -> str:
    return render("machine/upgrades.sh.j2", hour=hour)


def test_databases_are_not_upgraded_behind_our_back(tmp_path: Path) -> None:
    """As apt reads the file."""
    written = re.search(r"52mycat-ha <<'END'\n(.*?)^END$", upgrades(0), re.DOTALL | re.MULTILINE)
    assert written
    file = tmp_path / "apt.conf"
    file.write_text(written[1])
    dumped = subprocess.run(
        ["apt-config", "dump"], env={"APT_CONFIG": str(file)}, capture_output=True, text=True, check=True
    ).stdout
    excluded = re.findall(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', dumped, re.MULTILINE)
    for package in ("mariadb-server", "mariadb-server-core", "mariadb-client", "galera-4"):
        assert any(re.match(pattern, package) for pattern in excluded), package
    assert not any(re.match(pattern, "openssl") for pattern in excluded)
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in dumped
    assert 'APT::Periodic::Unattended-Upgrade "1";' in dumped


def test_machines_upgrade_an_hour_apart() -> None:
    times = [re.findall(r"^hourly (\S+) (\S+)$", upgrades(hour), re.MULTILINE) for hour in (0, 1, 23)]
    assert times == [
        [("apt-daily.timer", "23:30"), ("apt-daily-upgrade.timer", "00:00")],
        [("apt-daily.timer", "00:30"), ("apt-daily-upgrade.timer", "01:00")],
        [("apt-daily.timer", "22:30"), ("apt-daily-upgrade.timer", "23:00")],
    ]


@pytest.mark.parametrize("jar", ["log4j-core-2.13.0.jar", None])
def test_mycats_log4j_loads_no_code_from_the_network(jar: str | None, tmp_path: Path) -> None:
    mycat, prefix = tmp_path / "mycat", tmp_path / "prefix"
    for folder in ("lib", "conf"):
        (mycat / folder).mkdir(parents=True)
    content = {
        "org/apache/logging/log4j/core/lookup/JndiLookup.class": "code",
        "org/apache/logging/log4j/core/lookup/MapLookup.class": "other code",
        "META-INF/MANIFEST.MF": "Manifest-Version: 1.0\n",
    }
    names = ["Mycat-server.jar", *([jar] if jar else [])]
    for name in names:
        with zipfile.ZipFile(mycat / "lib" / name, "w") as archive:
            for entry, text in content.items():
                archive.writestr(entry, text)
    script = (ROOT / "templates/mycat/build.sh.j2").read_text()
    subprocess.run(["bash", "-ec", script], cwd=mycat, env={"PATH": "/usr/bin:/bin", "PREFIX": str(prefix)}, check=True)
    assert sorted(path.name for path in (prefix / "lib").iterdir()) == sorted(names)
    if jar:
        with zipfile.ZipFile(prefix / "lib" / jar) as archive:
            kept = {entry: archive.read(entry).decode() for entry in archive.namelist()}
        assert kept == {entry: text for entry, text in content.items() if "Jndi" not in entry}
