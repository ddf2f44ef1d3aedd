"""The network is as the API describes it: seen from machines and test hosts, not through the API."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from localregion.client import wait_until
from tests.region.conftest import VIP, World

#: With a queue that is longer than the usual one of 5. When it is full, because the server has no processor for a
#: moment, the machine drops a connection's first packet, and the client repeats it after a second, as if it were lost.
SERVER = (
    "from http import server; server.ThreadingHTTPServer.request_queue_size = 1024; "
    "server.test(server.SimpleHTTPRequestHandler, server.ThreadingHTTPServer, port=3306, bind='0.0.0.0')"
)
ANSWER = (
    "mkdir -p /tmp/www; hostname >/tmp/www/name; "
    f'systemd-run --quiet --collect --unit=www --working-directory=/tmp/www python3 -c "{SERVER}"'
)


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[World]:
    """Every machine has the VIP on its device and answers on 3306 with its name; clients inside may connect."""
    for number in range(3):
        world.shell(number, f"ip address replace {VIP}/32 dev ens5; {ANSWER}")
    undo = world.rule("ingress", "tcp", (3306, 3306), "10.77.0.32/27")
    wait_until(lambda: answer_of(world, world.address(2)), "the servers to answer", 15)
    yield world
    undo()
    for number in range(3):
        world.shell(number, f"ip address del {VIP}/32 dev ens5; systemctl stop www")


def answer_of(world: World, address: str, host: str = "inside") -> str:
    done = world.region.exec(host, ["curl", "-s", "-m", "1", f"http://{address}:3306/name"], check=False)
    return done.stdout.strip().removeprefix("ip-").replace("-", ".")


def move(world: World, to: int) -> None:
    world.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=world.enis[to], PrivateIpAddresses=[VIP], AllowReassignment=True
    )


def test_an_address_is_where_its_interface_is(served: World) -> None:
    assert answer_of(served, VIP) == served.address(0)


def test_gratuitous_arp_moves_nothing(served: World) -> None:
    shout = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('ens5', 0))\n"
        "mac = bytes.fromhex(open('/sys/class/net/ens5/address').read().strip().replace(':', ''))\n"
        f"ip = socket.inet_aton('{VIP}')\n"
        "for op in (1, 2):\n"
        "    arp = b'\\0\\1\\x08\\0\\6\\4' + bytes([0, op]) + mac + ip + b'\\xff' * 6 + ip\n"
        "    s.send(b'\\xff' * 6 + mac + b'\\x08\\x06' + arp)\n"
    )
    for _ in range(5):
        served.region.exec(served.machines[1], ["python3", "-c", shout])
    assert answer_of(served, VIP) == served.address(0)


def test_the_api_moves_it_for_everybody(served: World) -> None:
    move(served, 1)
    wait_until(lambda: answer_of(served, VIP) == served.address(1), "the VIP to be at the second machine", 30)
    undo = served.rule("ingress", "tcp", (3306, 3306), served.group)
    try:
        answer = wait_until(
            lambda: served.shell(2, f"curl -s -m 1 http://{VIP}:3306/name"), "a machine's own answer", 5
        )
        # The third machine has the VIP on its own device and so asks itself: take it off to see the network.
        served.shell(2, f"ip address del {VIP}/32 dev ens5")
        answer = served.shell(2, f"curl -s -m 1 http://{VIP}:3306/name")
        assert answer.endswith("-201")
    finally:
        served.shell(2, f"ip address replace {VIP}/32 dev ens5")
        undo()


def test_the_effect_comes_after_the_answer(served: World) -> None:
    wait_until(lambda: answer_of(served, VIP) == served.address(0), "the VIP to be on the first machine", 10)
    served.region.api(effect_delay_ms=3000)
    move(served, 1)
    answers: list[str] = []

    def moved() -> bool:
        answers.append(answer_of(served, VIP))
        return answers[-1] == served.address(1)

    wait_until(moved, "the effect", 15)
    assert served.address(0) in answers


def test_while_an_address_moves_every_connection_is_answered(served: World) -> None:
    """The machine before serves until packets go to the next one, and the answers of both get through."""
    script = (
        "import select, socket, sys, time\n"
        "count, slowest = 0, 0\n"
        "while not select.select([sys.stdin], [], [], 0.002)[0]:\n"
        "    start = time.monotonic()\n"
        "    socket.create_connection((sys.argv[1], 3306), 5).close()\n"
        "    count, slowest = count + 1, max(slowest, time.monotonic() - start)\n"
        "print(count, slowest)\n"
    )
    argv = [sys.executable, "-c", script, VIP]
    client = served.region.popen("inside", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for to in (1, 0, 1, 0):
            move(served, to)
            served.region.settle()
    finally:
        said, _ = client.communicate()
    count, slowest = said.split()
    assert int(count) > 100
    assert float(slowest) < 0.9, "TCP has repeated a lost packet, which it does after a second"


def test_the_effect_comes_half_a_second_after_the_answer_if_nobody_says_otherwise(world: World) -> None:
    before = time.monotonic()
    move(world, 1)
    answered = time.monotonic()
    world.region.settle()
    (found,) = world.region.moves(before)
    assert (found["address"], found["eni"]) == (VIP, world.enis[1])
    assert before < found["answered"] < answered
    assert 0.5 < found["in_force"] - found["answered"] < 2
    assert f"{VIP} is at {world.enis[1]}, " in world.region.log()


def test_metadata_follows_with_the_network(world: World) -> None:
    """Of both machines: neither learns from the API's answer that the address has moved."""

    def told(machine: int) -> bool:
        get = 'curl -s -H "X-aws-ec2-metadata-token: $t" http://169.254.169.254/latest/meta-data'
        token = "curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"
        script = f"t=$({token}); {get}/network/interfaces/macs/$({get}/mac)/local-ipv4s"
        return VIP in world.shell(machine, script).split()

    assert (told(0), told(1)) == (True, False)
    world.region.api(effect_delay_ms=5000)
    move(world, 1)
    before = (told(0), told(1))
    (found,) = world.region.moves(0)[-1:]
    assert found["in_force"] is None, "too slow to have seen it"
    assert before == (True, False)
    world.region.settle()
    assert (told(0), told(1)) == (False, True)


def test_an_address_that_the_system_has_and_the_interface_has_not_is_unreachable(served: World) -> None:
    stray = "10.77.0.222"
    served.shell(1, f"ip address add {stray}/32 dev ens5")
    assert answer_of(served, stray) == ""
    served.shell(1, f"ip address del {stray}/32 dev ens5")


def test_security_groups_let_in_what_a_rule_names_and_nothing_else(served: World) -> None:
    assert answer_of(served, served.address(1)) == served.address(1)
    assert answer_of(served, served.address(1), "outside") == ""
    undo = served.rule("ingress", "tcp", (3300, 3310), "10.20.0.10/32")
    wait_until(lambda: answer_of(served, served.address(1), "outside"), "the new rule", 30)
    undo()
    wait_until(lambda: not answer_of(served, served.address(1), "outside"), "the rule's end", 30)


def test_security_group_references_follow_their_members(served: World) -> None:
    def reaches() -> bool:
        return served.shell(0, f"curl -s -m 1 http://{served.address(2)}:3306/name") != ""

    assert not reaches()
    other = served.ec2.create_security_group(GroupName="peers", Description="test", VpcId=served.vpc)["GroupId"]
    undo = served.rule("ingress", "tcp", (3306, 3306), other)
    assert not reaches()
    served.ec2.modify_network_interface_attribute(NetworkInterfaceId=served.enis[0], Groups=[served.group, other])
    wait_until(reaches, "membership to count", 30)
    served.ec2.modify_network_interface_attribute(NetworkInterfaceId=served.enis[0], Groups=[served.group])
    wait_until(lambda: not reaches(), "membership to end", 30)
    undo()
    served.ec2.delete_security_group(GroupId=other)


def test_egress_is_enforced_and_answers_are_not(served: World) -> None:
    mirror = "curl -s -m 3 -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/"
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    endpoint = served.region.status()["endpoint"]
    out = f"curl -s -m 2 -o /dev/null -w '%{{http_code}}' {endpoint}"
    assert served.shell(1, out) != "000"
    served.ec2.revoke_security_group_egress(GroupId=served.group, IpPermissions=everything)
    try:
        wait_until(lambda: served.shell(1, out) == "000", "the end of egress", 30)
        assert answer_of(served, served.address(1)) == served.address(1)  # an answer to a connection that was let in
        assert served.shell(1, mirror) == "401"  # the metadata service is not subject to security groups
    finally:
        served.ec2.authorize_security_group_egress(GroupId=served.group, IpPermissions=everything)
    wait_until(lambda: served.shell(1, out) != "000", "egress again", 30)


def test_an_endpoint_of_the_api_has_the_apis_name_in_its_vpc_and_its_own_groups_decide(served: World) -> None:
    """With TLS, and the API's certificate verified; nobody signed, so it denies."""
    group = served.ec2.create_security_group(GroupName="endpoint", Description="test", VpcId=served.vpc)["GroupId"]
    name = f"ec2.{served.region.status()['region']}.amazonaws.com"
    ask = f"curl -s -m 2 -o /dev/null -w '%{{http_code}} %{{remote_ip}}' https://{name}/"
    made = served.ec2.create_vpc_endpoint(
        VpcId=served.vpc,
        ServiceName=f"com.amazonaws.{served.region.status()['region']}.ec2",
        VpcEndpointType="Interface",
        SubnetIds=[served.subnet],
        SecurityGroupIds=[group],
        PrivateDnsEnabled=True,
    )["VpcEndpoint"]
    (interface,) = served.ec2.describe_network_interfaces(NetworkInterfaceIds=made["NetworkInterfaceIds"])[
        "NetworkInterfaces"
    ]
    address, resolve = interface["PrivateIpAddress"], f"getent ahostsv4 {name} | awk '{{print $1}}' | sort -u"
    try:
        wait_until(lambda: served.shell(0, resolve) == address, "the name to lead to the endpoint", 10)
        assert served.shell(0, ask).startswith("000")
        permission = [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.77.0.0/24"}]}]
        served.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission)
        wait_until(lambda: served.shell(0, ask) == f"403 {address}", "the API's answer", 10)
    finally:
        served.ec2.delete_vpc_endpoints(VpcEndpointIds=[made["VpcEndpointId"]])
        served.ec2.delete_security_group(GroupId=group)
    served.region.settle()
    assert served.shell(0, f"curl -s -m 2 -k -o /dev/null -w '%{{http_code}}' https://{address}/") == "000"


RAW = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112); "
RECEIVE = RAW + "s.settimeout(3); print(s.recvfrom(99)[1][0])"
SEND = RAW + "[s.sendto(b'advert', ('{}', 0)) for _ in '123']"


def vrrp(world: World, source: int, target: int) -> bool:
    listener = world.region.popen(
        world.machines[target], ["timeout", "4", "python3", "-c", RECEIVE], stdout=-1, stderr=-1, text=True
    )
    time.sleep(0.7)
    world.region.exec(world.machines[source], ["python3", "-c", SEND.format(world.address(target))], check=False)
    output, _ = listener.communicate()
    return world.address(source) in output


def test_protocol_112_needs_a_rule_of_its_own(world: World) -> None:
    # Between two that no other test lets speak it: a flow that was let in once stays so, as on AWS, until it is idle.
    assert not vrrp(world, 1, 2)
    undo = world.rule("ingress", "112", None, world.group)
    assert vrrp(world, 1, 2)
    undo()


def test_a_spoofed_source_is_dropped_unless_the_check_is_off(served: World) -> None:
    undo = served.rule("ingress", "udp", (9999, 9999), "0.0.0.0/0")
    datagram = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    listen = datagram + "s.bind(('', 9999)); s.settimeout(3); print(s.recvfrom(9)[1][0])"
    spoof = datagram + (f"s.bind(('10.77.0.231', 0)); [s.sendto(b'x', ('{served.address(2)}', 9999)) for _ in '123']")

    def arrives() -> bool:
        listener = served.region.popen(
            served.machines[2], ["timeout", "4", "python3", "-c", listen], stdout=-1, stderr=-1, text=True
        )
        time.sleep(0.7)
        served.region.exec(served.machines[1], ["python3", "-c", spoof])
        return "10.77.0.231" in listener.communicate()[0]

    served.shell(1, "ip address add 10.77.0.231/32 dev ens5")
    try:
        assert not arrives()
        served.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=served.enis[1], SourceDestCheck={"Value": False}
        )
        served.region.settle()
        assert arrives()
    finally:
        served.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=served.enis[1], SourceDestCheck={"Value": True}
        )
        served.shell(1, "ip address del 10.77.0.231/32 dev ens5")
        undo()


def test_machines_reach_the_package_archives_through_the_gateway(world: World) -> None:
    assert world.shell(2, "apt-get -qq update 2>&1; echo status $?", timeout=90) == "status 0"


def test_a_power_cut_sends_nothing_to_the_peer(served: World) -> None:
    """A client in the middle of a connection hears neither FIN nor RST: it waits."""
    wait = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 3306), 2); print('connected', flush=True)\n"
        "s.settimeout(4)\n"
        "try:\n    print('end' if s.recv(1) == b'' else 'data')\n"
        "except TimeoutError:\n    print('silence')\n"
        "except ConnectionError as e:\n    print('reset')\n"
    )
    client = served.region.popen("inside", ["python3", "-c", wait, served.address(2)], stdout=-1, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "connected\n"
    served.region.power_cut(served.machines[2])
    assert client.communicate()[0].strip() == "silence"
    assert answer_of(served, served.address(2)) == ""
    served.region.power_on(served.machines[2])
    wait_until(lambda: served.ssh(2, "echo up") == "up", "the machine to be back", 30)
    served.shell(2, f"ip address replace {VIP}/32 dev ens5; {ANSWER}")
    wait_until(lambda: answer_of(served, served.address(2)), "its server", 10)


def test_a_frozen_machine_is_silent_and_goes_on_where_it_was(served: World) -> None:
    served.region.freeze(served.machines[1])
    assert answer_of(served, served.address(1)) == ""
    served.region.thaw(served.machines[1])
    wait_until(lambda: answer_of(served, served.address(1)) == served.address(1), "the thawed machine", 30)


def test_packets_are_lost_as_requested(served: World) -> None:
    everything = served.rule("ingress", "-1", None, served.group)
    try:
        assert vrrp(served, 0, 1)
        fault = served.region.drop(served.machines[0], served.machines[1], protocol="112", both=False)
        assert not vrrp(served, 0, 1)
        assert vrrp(served, 1, 0)
        assert served.shell(0, f"curl -s -m 1 http://{served.address(1)}:3306/name") != ""
        served.region.undrop(fault)
        assert vrrp(served, 0, 1)
        served.region.drop(served.machines[0], served.machines[1])
        assert served.shell(0, f"curl -s -m 1 http://{served.address(1)}:3306/name") == ""
        assert served.shell(1, f"curl -s -m 1 http://{served.address(0)}:3306/name") == ""
        assert served.shell(2, f"curl -s -m 1 http://{served.address(1)}:3306/name") != ""
    finally:
        everything()


def test_vpcs_do_not_see_each_other(served: World) -> None:
    vpc = served.ec2.create_vpc(CidrBlock="10.78.0.0/24")["Vpc"]["VpcId"]
    served.ec2.create_subnet(VpcId=vpc, CidrBlock="10.78.0.0/25")
    served.region.add_host("elsewhere", "10.78.0.40")
    undo = served.rule("ingress", "tcp", (3306, 3306), "10.78.0.0/24")
    try:
        assert answer_of(served, served.address(1), "elsewhere") == ""
        assert answer_of(served, served.address(1)) == served.address(1)
    finally:
        undo()
        served.region.remove_host("elsewhere")
