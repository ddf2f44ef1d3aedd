"""What the region's endpoint does with a call whose answer is lost, and that it loses none by itself."""

import os
import socket
import threading
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from localregion import ec2
from localregion.api import Api, ApiFaults
from localregion.auth import Credentials
from localregion.ec2.corrections import corrections
from localregion.imds import Keyring
from localregion.serving import serve_on
from localregion.wait import wait_until
from tests.unit.test_moto_corrections import Machines

REGION = "eu-central-1"


class Endpoint:
    """The region's API on loopback, without a network or machines, and a client of its administrator."""

    def __init__(self) -> None:
        keyring, administrator = Keyring(), Credentials.administrator()
        keyring.add(administrator)
        self.followed = 0
        self.api = Api(REGION, keyring, self.changed)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.session = boto3.Session(administrator.access_key, administrator.secret_key, region_name=REGION)
        serve_on(listening, self.api)
        self.ec2 = self.client(1)

    def client(self, attempts: int) -> Any:
        config = Config(retries={"total_max_attempts": attempts, "mode": "standard"}, proxies={})
        return self.session.client("ec2", endpoint_url=self.url, config=config)

    def changed(self) -> None:
        self.followed += 1

    def vpcs(self) -> int:
        return len(self.ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.9.0.0/16"]}])["Vpcs"])


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    machines = Machines()
    for correction in corrections(machines):
        monkeypatch.setattr(correction.owner, correction.attribute, correction.replacement)
    ec2.backend(REGION).reset()
    return Endpoint()


def test_a_lost_answer_is_one_to_a_call_that_took_effect(endpoint: Endpoint) -> None:
    endpoint.api.faults = ApiFaults(lost_rate=1, actions=["CreateVpc"])
    with pytest.raises(ConnectionClosedError):
        endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")
    assert endpoint.vpcs() == 1
    assert endpoint.followed == 1


def test_a_reset_is_one_of_a_call_that_took_no_effect(endpoint: Endpoint) -> None:
    endpoint.api.faults = ApiFaults(reset_rate=1, actions=["CreateVpc"])
    with pytest.raises((ConnectionClosedError, HTTPClientError), match=r"Connection (was closed|reset)"):
        endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")
    assert endpoint.vpcs() == 0


@pytest.mark.parametrize("raised", [ConnectionAbortedError, ConnectionResetError])
def test_a_connection_ends_without_an_answer_by_fin_or_by_reset(raised: type[ConnectionError]) -> None:
    def application(_environ: Any, _start_response: Any) -> Any:
        raise raised

    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    serve_on(listening, application)
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        if raised is ConnectionResetError:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            assert connection.recv(1) == b""


def test_a_fault_can_end_after_a_number_of_requests(endpoint: Endpoint) -> None:
    """An SDK repeats a call whose answer it did not get, and makes a second gateway."""
    endpoint.api.faults = ApiFaults(lost_rate=1, actions=["CreateInternetGateway"], times=1)
    endpoint.client(3).create_internet_gateway()
    assert len(endpoint.ec2.describe_internet_gateways()["InternetGateways"]) == 2


def test_a_call_that_is_repeated_with_its_client_token_takes_effect_once(endpoint: Endpoint) -> None:
    vpc = endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    first = endpoint.ec2.create_route_table(VpcId=vpc, ClientToken="one")["RouteTable"]["RouteTableId"]
    again = endpoint.ec2.create_route_table(VpcId=vpc, ClientToken="one")["RouteTable"]["RouteTableId"]
    other = endpoint.ec2.create_route_table(VpcId=vpc, ClientToken="two")["RouteTable"]["RouteTableId"]
    assert first == again != other
    tags = [{"ResourceType": "route-table", "Tags": [{"Key": "a", "Value": "b"}]}]
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        endpoint.ec2.create_route_table(VpcId=vpc, ClientToken="one", TagSpecifications=tags)


def test_an_answer_goes_out_whatever_becomes_of_the_network(endpoint: Endpoint) -> None:
    def fail() -> None:
        raise RuntimeError("dictionary changed size during iteration")

    endpoint.api.changed = fail
    assert endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["CidrBlock"] == "10.9.0.0/16"


def test_what_happens_after_an_answer_waits_for_the_call_that_is_served(endpoint: Endpoint) -> None:
    """A machine's end takes its interface away; in the middle of another call, that one would fail half-way."""
    account = ec2.backend(REGION)
    vpc = endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = endpoint.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    nic = {"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": True}
    ami = endpoint.ec2.describe_images()["Images"][0]["ImageId"]
    run = endpoint.ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1, NetworkInterfaces=[nic])
    instance = run["Instances"][0]["InstanceId"]
    before = set(account.enis)
    wait_until(lambda: account.get_instance(instance).state == "running", "the machine", 5, pause=0.01)
    with endpoint.api.lock:
        threads = set(threading.enumerate())
        account.terminate_instances([instance])
        for work in set(threading.enumerate()) - threads:
            work.join(0.2)
        assert set(account.enis) == before
    wait_until(lambda: account.get_instance(instance).state == "terminated", "its end", 5, pause=0.01)
    assert set(account.enis) < before
