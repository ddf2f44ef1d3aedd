"""files/machine/own-addresses with a netplan that keeps its addresses in a file."""

from pathlib import Path

import pytest

from tests.programs import Stubs

PROGRAM = "machine/own-addresses"
#: `netplan get` writes a list, quoted or not by version, and the word null for nothing.
NETPLAN = """
cd {state}
case "$1 $2" in
"get network.ethernets.ens5.addresses") if [ -s addresses ]; then cat addresses; else echo null; fi ;;
"set --origin-hint=50-cloud-init") [ "$3" = network.ethernets.ens5.addresses=null ] && : >addresses ;;
generate*) ;;
*) exit 2 ;;
esac
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        for directory in ("etc/cloud/cloud.cfg.d", "run/systemd/network"):
            (self.root / directory).mkdir(parents=True)
        (self.root / "run/systemd/network/10-netplan-ens5.network").touch()
        self.addresses = folder / "addresses"
        self.addresses.write_text("")
        self.stubs = Stubs(folder / "bin")
        self.stubs.add("netplan", NETPLAN.format(state=folder))
        self.stubs.add("ip")
        self.stubs.add("networkctl")

    def run(self) -> None:
        done = self.stubs.run(PROGRAM, MYCAT_HA_ROOT=str(self.root))
        assert done.returncode == 0, done.stderr

    def text(self, path: str) -> str:
        return (self.root / path).read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_cloud_init_and_networkd_are_told_and_nothing_else_is_touched(machine: Machine) -> None:
    machine.run()
    told = machine.text("etc/cloud/cloud.cfg.d/95-mycat-ha.cfg")
    assert told == "datasource: {Ec2: {apply_full_imds_network_config: false}}\n"
    kept = machine.text("etc/systemd/network/10-netplan-ens5.network.d/mycat-ha.conf")
    assert kept == "[Network]\nKeepConfiguration=static\n"
    assert machine.stubs.calls("ip") == []
    assert machine.stubs.calls("networkctl") == ["reload"]


@pytest.mark.parametrize("written", ["- 10.0.0.9/24\n- 10.0.0.10/24\n", '- "10.0.0.9/24"\n- "10.0.0.10/24"\n'])
def test_what_cloud_init_has_written_is_taken_out(machine: Machine, written: str) -> None:
    machine.addresses.write_text(written)
    machine.run()
    assert machine.addresses.read_text() == ""
    removed = [f"address delete 10.0.0.{host}/24 dev ens5" for host in (9, 10)]
    assert machine.stubs.calls("ip") == removed
    assert machine.stubs.calls("networkctl") == ["reload"]


def test_networkd_reads_its_configuration_anew_without_a_bus(machine: Machine) -> None:
    machine.stubs.add("networkctl", "exit 1")
    machine.stubs.add("systemctl")
    machine.run()
    assert machine.stubs.calls("systemctl") == ["try-restart systemd-networkd"]


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    machine.addresses.write_text("- 10.0.0.9/24\n")
    machine.run()
    before = machine.stubs.calls()
    machine.run()
    assert [call for call in machine.stubs.calls()[len(before) :] if not call.startswith("netplan get")] == []


def test_an_image_without_netplan_is_left_alone(machine: Machine) -> None:
    (machine.root / "run/systemd/network/10-netplan-ens5.network").unlink()
    machine.run()
    assert machine.stubs.calls() == []
