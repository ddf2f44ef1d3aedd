"""What the region's endpoint does with a call whose answer is lost, that it loses none by itself; when IAM counts."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import cache, cached_property, partial
from ipaddress import IPv4Address
from typing import Any

import boto3
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError
from moto.ec2.models import EC2Backend
from moto.iam.models import IAMBackend
from moto.ssm.models import SimpleSystemManagerBackend
from werkzeug.test import Client

from localregion import ec2, imds
from localregion.api import Api, ApiFaults
from localregion.auth import Credentials
from localregion.ec2.corrections import corrections
from localregion.imds import Keyring
from localregion.metadata import MetadataService
from localregion.model import Eni
from localregion.serving import serve_on
from localregion.wait import wait_until
from tests.unit.test_moto_corrections import Machines

REGION = "eu-central-1"


@cache
def session() -> Any:
    """One for all, because reading the services' descriptions takes longer than any test."""
    return boto3.Session()


class Endpoint:
    """The region's API on loopback, without a network or machines, and a client of its administrator."""

    def __init__(self, region: str = REGION) -> None:
        self.administrator = Credentials.administrator()
        self.keyring = Keyring()
        self.keyring.add(self.administrator)
        self.followed = 0
        self.region = region
        self.api = Api(region, self.keyring, self.changed)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        serve_on(listening, self.api)
        self.ec2 = self.client(1)

    def client(self, attempts: int, service: str = "ec2", caller: Credentials | None = None) -> Any:
        """``caller`` None is the administrator."""
        caller = caller or self.administrator
        return session().client(
            service,
            self.region,
            endpoint_url=self.url,
            aws_access_key_id=caller.access_key,
            aws_secret_access_key=caller.secret_key,
            aws_session_token=caller.token,
            config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}, proxies={}),
        )

    def role(self, name: str) -> Credentials:
        """A new role's, as a machine gets them."""
        self.client(1, "iam").create_role(RoleName=name, AssumeRolePolicyDocument=policy("sts:AssumeRole", "*"))
        credentials = Credentials.of_role(name, "i-1", timedelta(hours=1))
        self.keyring.add(credentials)
        return credentials

    @cached_property
    def subnet(self) -> str:
        vpc = self.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        return str(self.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"])

    @cached_property
    def ami(self) -> str:
        return str(self.ec2.describe_images()["Images"][0]["ImageId"])

    def run(self, **options: Any) -> Any:
        """A new instance, as moto has it."""
        nic = {"DeviceIndex": 0, "SubnetId": self.subnet, "DeleteOnTermination": True}
        options = {"ImageId": self.ami, "MinCount": 1, "MaxCount": 1, "NetworkInterfaces": [nic], **options}
        made = self.ec2.run_instances(**options)
        return ec2.backend(self.region).get_instance(made["Instances"][0]["InstanceId"])

    def changed(self) -> None:
        self.followed += 1

    def vpcs(self) -> int:
        return len(self.ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.9.0.0/16"]}])["Vpcs"])


def policy(action: str, resource: str) -> str:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


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


def fail(*_: Any, **_named: Any) -> Any:
    raise RuntimeError("dictionary changed size during iteration")


def test_an_answer_goes_out_whatever_becomes_of_the_network(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.api.changed = fail
    assert endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["CidrBlock"] == "10.9.0.0/16"
    assert "does not follow ec2:CreateVpc" in caplog.text
    assert "dictionary changed size" in caplog.text


def test_an_answer_of_iam_goes_out_whatever_becomes_of_what_counts(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change takes along what did not follow."""
    name, iam = uuid.uuid4().hex, endpoint.client(1, "iam")
    endpoint.api.faults = ApiFaults(iam_delay_ms=0)
    machine = endpoint.client(1, caller=endpoint.role(name))
    with monkeypatch.context() as patch:
        patch.setattr(endpoint.api.iam, "_read", fail)
        iam.put_role_policy(RoleName=name, PolicyName="look", PolicyDocument=policy("ec2:DescribeVpcs", "*"))
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["look"]
    assert "does not follow iam:PutRolePolicy" in caplog.text
    assert error_of(machine.describe_vpcs) == "UnauthorizedOperation"
    iam.create_role(RoleName=uuid.uuid4().hex, AssumeRolePolicyDocument=policy("sts:AssumeRole", "*"))
    machine.describe_vpcs()


def test_the_network_follows_what_moto_did_before_it_failed(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = EC2Backend.create_vpc

    def create_and_fail(*arguments: Any, **named: Any) -> Any:
        create(*arguments, **named)
        raise ConnectionRefusedError("the reason")

    monkeypatch.setattr(EC2Backend, "create_vpc", create_and_fail)
    with pytest.raises(ClientError) as error:
        endpoint.ec2.create_vpc(CidrBlock="10.9.0.0/16")
    assert error.value.response["Error"] == {"Code": "InternalError", "Message": "An internal error has occurred"}
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert "moto failed at ec2:CreateVpc" in caplog.text
    assert "ConnectionRefusedError: the reason" in caplog.text
    assert endpoint.followed == endpoint.vpcs() == 1


@pytest.mark.parametrize(
    ("service", "owner", "method", "call"),
    [
        ("ec2", EC2Backend, "describe_vpcs", "describe_vpcs"),
        ("iam", IAMBackend, "list_roles", "list_roles"),
        ("ssm", SimpleSystemManagerBackend, "describe_parameters", "describe_parameters"),
    ],
)
def test_what_moto_fails_at_is_answered_in_the_services_own_format(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, service: str, owner: Any, method: str, call: str
) -> None:
    monkeypatch.setattr(owner, method, fail)
    assert error_of(getattr(endpoint.client(1, service), call)) == "InternalError"


def test_a_failure_of_the_endpoint_is_answered_and_the_call_takes_no_effect(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = endpoint.client(1, caller=endpoint.role(uuid.uuid4().hex))
    with monkeypatch.context() as patch:
        patch.setattr(endpoint.api.iam, "in_force", fail)
        assert error_of(partial(caller.create_vpc, CidrBlock="10.9.0.0/16")) == "InternalError"
    assert "failed at ec2:CreateVpc" in caplog.text
    assert "dictionary changed size" in caplog.text
    assert endpoint.vpcs() == endpoint.followed == 0


def test_what_happens_after_an_answer_waits_for_the_call_that_is_served(endpoint: Endpoint) -> None:
    """A machine's end takes its interface away; in the middle of another call, that one would fail half-way."""
    account, instance = ec2.backend(REGION), endpoint.run().id
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


# -- IAM -------------------------------------------------------------------------------------------------------


DELAY = 0.5  # seconds


def error_of(call: Callable[[], Any]) -> str | None:
    """The code that AWS refuses a call with; None if it does not."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def test_ec2_takes_a_new_profile_some_time_after_iam_has_made_it(endpoint: Endpoint) -> None:
    """Its messages are those by which Terraform's provider knows that it has to wait."""
    name, iam = uuid.uuid4().hex, endpoint.client(1, "iam")

    with pytest.raises(
        ClientError, match=f"Value .{name}. for parameter iamInstanceProfile.name is invalid. Invalid IAM"
    ):
        endpoint.run(IamInstanceProfile={"Name": name})
    endpoint.api.faults = ApiFaults(iam_delay_ms=0)
    endpoint.role(name)
    arn = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
    with pytest.raises(ClientError, match="has no associated IAM Roles"):
        endpoint.run(IamInstanceProfile={"Arn": arn})
    endpoint.api.faults = ApiFaults(iam_delay_ms=DELAY * 1000)
    before = time.monotonic()
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    run = partial(endpoint.run, IamInstanceProfile={"Name": name})
    while code := error_of(run):
        assert code == "InvalidParameterValue"
        assert time.monotonic() - before < 5
    assert time.monotonic() - before >= DELAY


def test_a_policy_and_its_end_count_some_time_after_iam_has_them(endpoint: Endpoint) -> None:
    name, iam = uuid.uuid4().hex, endpoint.client(1, "iam")
    endpoint.api.faults = ApiFaults(iam_delay_ms=DELAY * 1000)
    machine = endpoint.client(1, caller=endpoint.role(name))
    look = policy("ec2:DescribeNetworkInterfaces", "*")
    changes = (
        (partial(iam.put_role_policy, PolicyDocument=look), "UnauthorizedOperation", None),
        (iam.delete_role_policy, None, "UnauthorizedOperation"),
    )
    for change, at_first, then in changes:
        before = time.monotonic()
        change(RoleName=name, PolicyName="look")
        assert error_of(machine.describe_network_interfaces) == at_first
        while error_of(machine.describe_network_interfaces) != then:
            assert time.monotonic() - before < 5
        assert time.monotonic() - before >= DELAY


class Metadata:
    """What a machine is told by its metadata service, which knows of every change at once."""

    def __init__(self, endpoint: Endpoint, instance: Any) -> None:
        account = ec2.backend(REGION)
        service = MetadataService(REGION, endpoint.keyring, lambda: ec2.layout(account))
        self._client = Client(service.of_vpc(instance.vpc_id))
        self._from = {"REMOTE_ADDR": instance.nics[0].private_ip_address}
        token = self._client.put(
            "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}, environ_base=self._from
        )
        self._headers = {"X-aws-ec2-metadata-token": token.text}

    def get(self, path: str) -> tuple[int, str]:
        answer = self._client.get(f"/latest/meta-data/{path}", headers=self._headers, environ_base=self._from)
        return answer.status_code, answer.text


def test_a_profile_of_a_running_instance_can_be_given_replaced_and_taken(endpoint: Endpoint) -> None:
    """As Pulumi's provider does it, which looks at the instance afterwards; the machine gets the role's credentials."""
    endpoint.api.faults = ApiFaults(iam_delay_ms=0)
    iam, names = endpoint.client(1, "iam"), [uuid.uuid4().hex, uuid.uuid4().hex]
    for name in names:
        endpoint.role(name)
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    instance = endpoint.run()
    metadata = Metadata(endpoint, instance)
    here = [{"Name": "instance-id", "Values": [instance.id]}]

    def associations() -> Any:
        return endpoint.ec2.describe_iam_instance_profile_associations(Filters=here)["IamInstanceProfileAssociations"]

    def shown() -> Any:
        described = endpoint.ec2.describe_instances(InstanceIds=[instance.id])["Reservations"][0]["Instances"][0]
        return described.get("IamInstanceProfile", {}).get("Arn", "").rpartition("/")[2]

    assert (associations(), shown(), metadata.get("iam/security-credentials/")[0]) == ([], "", 404)
    associate = partial(endpoint.ec2.associate_iam_instance_profile, InstanceId=instance.id)
    assert error_of(partial(associate, IamInstanceProfile={"Name": "missing"})) == "InvalidParameterValue"
    associate(IamInstanceProfile={"Name": names[0]})
    assert error_of(partial(associate, IamInstanceProfile={"Name": names[1]})) == "IncorrectState"
    assert (shown(), metadata.get("iam/security-credentials/")) == (names[0], (200, names[0]))
    replace = partial(
        endpoint.ec2.replace_iam_instance_profile_association, AssociationId=associations()[0]["AssociationId"]
    )
    assert error_of(partial(replace, IamInstanceProfile={"Name": "missing"})) == "InvalidParameterValue"
    replace(IamInstanceProfile={"Name": names[1]})
    assert (shown(), metadata.get("iam/security-credentials/")) == (names[1], (200, names[1]))
    assert names[1] in metadata.get("iam/info")[1]
    given = json.loads(metadata.get(f"iam/security-credentials/{names[1]}")[1])
    caller = Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["Token"])
    identity = endpoint.client(1, "sts", caller).get_caller_identity()
    assert identity["Arn"].endswith(f"assumed-role/{names[1]}/{instance.id}")
    endpoint.ec2.disassociate_iam_instance_profile(AssociationId=associations()[0]["AssociationId"])
    assert (associations(), shown(), metadata.get("iam/security-credentials/")[0]) == ([], "", 404)


def test_who_gives_an_instance_a_role_needs_leave_to_pass_it(endpoint: Endpoint) -> None:
    endpoint.api.faults = ApiFaults(iam_delay_ms=0)
    iam, name = endpoint.client(1, "iam"), uuid.uuid4().hex
    caller = endpoint.client(1, caller=endpoint.role(name))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    put = partial(iam.put_role_policy, RoleName=name)
    put(PolicyName="ec2", PolicyDocument=policy("ec2:*", "*"))
    profile = {"IamInstanceProfile": {"Name": name}}
    instance = endpoint.run().id
    give = partial(caller.associate_iam_instance_profile, InstanceId=instance, **profile)
    run = partial(caller.run_instances, ImageId=endpoint.ami, MinCount=1, MaxCount=1, SubnetId=endpoint.subnet)
    run()
    for call in (give, partial(run, **profile)):
        with pytest.raises(ClientError, match=rf"UnauthorizedOperation.*iam:PassRole on resource: .*:role/{name} "):
            call()
    put(PolicyName="pass", PolicyDocument=policy("iam:PassRole", f"arn:aws:iam::{ec2.ACCOUNT}:role/{name}"))
    give()
    run(**profile)


def test_iam_takes_three_seconds_unless_it_is_set() -> None:
    assert ApiFaults().iam_delay_ms == 3000


@pytest.mark.parametrize(
    ("region", "partition", "domain"),
    [
        ("eu-central-1", "aws", "amazonaws.com"),
        ("cn-north-1", "aws-cn", "amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "amazonaws.com"),
    ],
)
@pytest.mark.usefixtures("endpoint")  # moto's corrections
def test_arns_and_metadata_are_those_of_the_regions_partition(region: str, partition: str, domain: str) -> None:
    there, name = Endpoint(region), uuid.uuid4().hex
    there.api.faults = ApiFaults(iam_delay_ms=0)
    iam, caller = there.client(1, "iam"), there.role(name)
    administrator = there.client(1, "sts").get_caller_identity()["Arn"]
    assert administrator == f"arn:{partition}:iam::123456789012:user/administrator"
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    instance = there.run(IamInstanceProfile={"Name": name})
    eni = instance.nics[0]
    address = IPv4Address(eni.private_ip_address)
    place = Eni(eni.id, eni.mac_address, eni.subnet.id, address, frozenset({address}), ())
    tree = imds.tree(instance, place, region, None, lambda role: there.keyring.of_role(role, instance.id), None)
    assert (tree["meta-data/services/partition"], tree["meta-data/services/domain"]) == (partition, domain)

    assign = there.client(1, caller=caller).assign_private_ip_addresses
    machine = f"arn:{partition}:sts::123456789012:assumed-role/{name}/i-1"
    resource = f"arn:{partition}:ec2:{region}:123456789012:network-interface/{eni.id}"
    with pytest.raises(ClientError, match=f"{machine} is not authorized .* on resource: {resource} "):
        assign(NetworkInterfaceId=eni.id, PrivateIpAddresses=["10.9.0.99"])
    document = policy("ec2:AssignPrivateIpAddresses", resource)
    iam.put_role_policy(RoleName=name, PolicyName="claim", PolicyDocument=document)
    assign(NetworkInterfaceId=eni.id, PrivateIpAddresses=["10.9.0.99"])


# -- errors ----------------------------------------------------------------------------------------------------


def test_whoever_is_known_may_ask_who_he_is(endpoint: Endpoint) -> None:
    """STS API Reference, GetCallerIdentity: no permissions are required, and a policy that denies it has no effect."""
    name, iam = uuid.uuid4().hex, endpoint.client(1, "iam")
    endpoint.api.faults = ApiFaults(iam_delay_ms=0)
    caller = endpoint.role(name)
    sts = endpoint.client(1, "sts", caller)
    assert sts.get_caller_identity()["Arn"].endswith(f":assumed-role/{name}/i-1")
    deny = policy("*", "*").replace("Allow", "Deny")
    iam.put_role_policy(RoleName=name, PolicyName="nothing", PolicyDocument=deny)
    assert sts.get_caller_identity()["Arn"].endswith(f":assumed-role/{name}/i-1")
    stranger = endpoint.client(1, "sts", Credentials.administrator())
    assert error_of(stranger.get_caller_identity) == "InvalidClientTokenId"


SIGNED = "AWS4-HMAC-SHA256 Credential=AKIANOBODY/20260101/eu-central-1/{}/aws4_request, SignedHeaders=host, Signature="


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("service", "body", "headers", "root"),
    [
        ("ec2", "Action=DescribeVpcs&Version=2016-11-15", {}, "<Response><Errors><Error><Code>"),
        ("ec2", b"Action=DescribeVpcs&Version=\xff", {}, "<Response><Errors><Error><Code>"),
        ("sts", "Action=GetCallerIdentity&Version=2011-06-15", {}, "<ErrorResponse><Error><Type>Sender</Type><Code>"),
        ("iam", "Action=ListRoles&Version=2010-05-08", {}, "<ErrorResponse><Error><Type>Sender</Type><Code>"),
        ("ssm", "{}", {"X-Amz-Target": "AmazonSSM.GetParameter"}, '{"__type": "'),
    ],
)
def test_who_is_not_known_gets_an_error_in_the_services_own_format(
    endpoint: Endpoint, service: str, body: str | bytes, headers: dict[str, str], root: str, signed: bool
) -> None:
    code = {True: "AuthFailure" if service == "ec2" else "InvalidClientTokenId", False: "MissingAuthenticationToken"}
    kind = "application/x-amz-json-1.1" if headers else "application/x-www-form-urlencoded"
    headers = {"Content-Type": kind, **headers}
    if signed:
        headers["Authorization"] = SIGNED.format(service) + "0" * 64
    answer = urllib3.request("POST", endpoint.url, body=body, headers=headers)
    assert answer.status in {401, 403}
    assert answer.data.decode().rpartition("?>\n")[2].startswith(root + code[signed])
