"""The API is as strict as AWS, with AWS's codes; requests are signed; roles are limited to their policies."""

import json
import time
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from localregion.auth import Credentials, allowed
from localregion.client import wait_until
from localregion.imds import Keyring
from tests.region.conftest import VIP, World


def code(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return str(error.value.response["Error"]["Code"])


def test_taking_an_address_needs_permission_to_reassign(world: World) -> None:
    assign = world.ec2.assign_private_ip_addresses
    with pytest.raises(ClientError, match=rf"InvalidParameterValue.*\[{VIP}\] assigned, but move is not allowed\."):
        assign(NetworkInterfaceId=world.enis[1], PrivateIpAddresses=[VIP])
    assert holder(world) == world.enis[0]
    assign(NetworkInterfaceId=world.enis[1], PrivateIpAddresses=[VIP], AllowReassignment=True)
    assert holder(world) == world.enis[1]


def holder(world: World) -> str:
    filters = [{"Name": "addresses.private-ip-address", "Values": [VIP]}]
    found = world.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
    assert len(found) == 1
    return str(found[0]["NetworkInterfaceId"])


@pytest.mark.parametrize("address", ["10.77.0.128", "10.77.0.131", "10.77.0.255", "10.77.1.9", "10.77.0.20"])
def test_an_address_must_lie_in_the_subnet_and_not_be_reserved(world: World, address: str) -> None:
    arguments = {"NetworkInterfaceId": world.enis[1], "PrivateIpAddresses": [address], "AllowReassignment": True}
    assert code(world.ec2.assign_private_ip_addresses, **arguments) == "InvalidParameterValue"


def test_a_primary_address_never_moves(world: World) -> None:
    arguments = {
        "NetworkInterfaceId": world.enis[1],
        "PrivateIpAddresses": [world.address(0)],
        "AllowReassignment": True,
    }
    assert code(world.ec2.assign_private_ip_addresses, **arguments) == "InvalidParameterValue"


def test_an_address_in_use_cannot_be_given_to_a_new_interface(world: World) -> None:
    create = world.ec2.create_network_interface
    assert code(create, SubnetId=world.subnet, PrivateIpAddress=VIP) == "InvalidIPAddress.InUse"


def test_what_is_in_use_cannot_be_deleted(world: World) -> None:
    assert code(world.ec2.delete_network_interface, NetworkInterfaceId=world.enis[0]) == "InvalidParameterValue"
    assert code(world.ec2.delete_security_group, GroupId=world.group) == "DependencyViolation"


def test_a_reservation_keeps_its_description_and_must_lie_in_the_subnet(world: World) -> None:
    create = world.ec2.create_subnet_cidr_reservation
    made = create(SubnetId=world.subnet, Cidr=f"{VIP}/32", ReservationType="explicit", Description="VIP")
    reservation = made["SubnetCidrReservation"]["SubnetCidrReservationId"]
    found = world.ec2.get_subnet_cidr_reservations(SubnetId=world.subnet)["SubnetIpv4CidrReservations"]
    assert [(r["Cidr"], r["Description"]) for r in found] == [(f"{VIP}/32", "VIP")]
    world.ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=reservation)
    outside = {"SubnetId": world.subnet, "Cidr": "10.99.0.0/32", "ReservationType": "explicit"}
    assert code(create, **outside).startswith("Invalid")


def test_the_image_is_found_as_on_aws(world: World) -> None:
    parameter = world.session.client("ssm").get_parameter(Name="/aws/service/debian/release/12/latest/amd64")
    assert parameter["Parameter"]["Value"] == world.ami


def test_unsigned_and_badly_signed_requests_are_refused(world: World) -> None:
    endpoint = world.region.status()["endpoint"]
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{endpoint}/?Action=DescribeInstances&Version=2016-11-15", timeout=5)
    assert error.value.code == 403
    held = world.session.get_credentials()
    assert held is not None
    credentials = held.get_frozen_credentials()
    region = world.session.region_name
    once = Config(retries={"total_max_attempts": 1})
    wrong = boto3.Session(credentials.access_key, "wrong", region_name=region).client("ec2", config=once)
    assert code(wrong.describe_instances) == "AuthFailure"
    unknown = boto3.Session("AKIAUNKNOWN", "x", region_name=region).client("ec2", config=once)
    assert code(unknown.describe_instances) == "AuthFailure"
    token = boto3.Session(credentials.access_key, credentials.secret_key, "token", region_name=region)
    assert code(token.client("ec2", config=once).describe_instances) == "AuthFailure"


CREDENTIALS = """
token=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
document=$(curl -s -H "X-aws-ec2-metadata-token: $token" \
    http://169.254.169.254/latest/meta-data/iam/security-credentials/mover)
field() { printf '%s' "$document" | sed -n "s/.*\\"$1\\": *\\"\\([^\\"]*\\)\\".*/\\1/p"; }
"""
CALL = f"""{CREDENTIALS}
curl -s --aws-sigv4 "aws:amz:REGION:ec2" --user "$(field AccessKeyId):$(field SecretAccessKey)SPOIL" \
    -H "X-Amz-Security-Token: $(field Token)" --data "Version=2016-11-15&PARAMETERS" ENDPOINT/
"""


def as_machine(world: World, parameters: str, spoil: str = "") -> str:
    """A call as the machine's role, signed by curl with credentials of the metadata service."""
    status = world.region.status()
    script = CALL.replace("REGION", status["region"]).replace("PARAMETERS", parameters).replace("SPOIL", spoil)
    return world.shell(1, script.replace("ENDPOINT", status["endpoint"]))


def test_a_role_may_do_what_its_policy_allows_and_nothing_else(world: World) -> None:
    assign = "Action=AssignPrivateIpAddresses&AllowReassignment=true&PrivateIpAddress.1={}&NetworkInterfaceId={}"
    assert "<networkInterfaceId>" in as_machine(world, assign.format(VIP, world.enis[1]))
    assert holder(world) == world.enis[1]
    refused = as_machine(world, assign.format(VIP, world.enis[2]))
    assert "<Code>UnauthorizedOperation</Code>" in refused
    assert "assumed-role/mover/" in refused
    assert holder(world) == world.enis[1]
    assert "<Code>UnauthorizedOperation</Code>" in as_machine(world, "Action=DescribeInstances")
    terminate = f"Action=TerminateInstances&InstanceId.1={world.machines[1]}"
    assert "<Code>UnauthorizedOperation</Code>" in as_machine(world, terminate)
    assert VIP in as_machine(world, "Action=DescribeNetworkInterfaces")
    assert "<Code>AuthFailure</Code>" in as_machine(world, "Action=DescribeNetworkInterfaces", spoil="x")


PUT = f"""{CREDENTIALS}
curl -s --aws-sigv4 "aws:amz:REGION:s3" --user "$(field AccessKeyId):$(field SecretAccessKey)" -X PUT --data backup \
    -H "X-Amz-Security-Token: $(field Token)" -H "X-Amz-Content-Sha256: UNSIGNED-PAYLOAD" -w '%{{http_code}}' \
    -H 'Content-Type: application/octet-stream' ENDPOINT/backups/KEY
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_machine_puts_an_object_where_its_role_may(world: World, scheme: str) -> None:
    """Over HTTPS with the certificate that the machine trusts."""
    s3, status = world.session.client("s3"), world.region.status()
    s3.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": status["region"]})
    endpoint = status["endpoint"].replace("http", scheme)
    put = PUT.replace("REGION", status["region"]).replace("ENDPOINT", endpoint)
    try:
        assert world.shell(0, put.replace("KEY", "mine/1")) == "200"
        assert s3.get_object(Bucket="backups", Key="mine/1")["Body"].read() == b"backup"
        refused = world.shell(0, put.replace("KEY", "other/1"))
        assert "<Code>AccessDenied</Code>" in refused
        assert f"assumed-role/mover/{world.machines[0]} is not authorized to perform: s3:PutObject" in refused
        assert [each["Key"] for each in s3.list_objects_v2(Bucket="backups")["Contents"]] == ["mine/1"]
    finally:
        s3.delete_object(Bucket="backups", Key="mine/1")
        s3.delete_bucket(Bucket="backups")


def test_role_credentials_are_renewed_before_they_expire() -> None:
    keyring = Keyring()
    keyring.set_lifetime(timedelta(seconds=2))
    first = keyring.of_role("mover", "i-1")
    assert keyring.of_role("mover", "i-1") == first
    time.sleep(1.3)
    second = keyring.of_role("mover", "i-1")
    assert second != first
    assert keyring.get(first.access_key) == first  # still good for those who hold it


def test_a_new_lifetime_holds_from_the_next_credentials_on() -> None:
    keyring = Keyring()
    first = keyring.of_role("mover", "i-1")
    keyring.set_lifetime(timedelta(minutes=1))
    second = keyring.of_role("mover", "i-1")
    assert first.expires is not None
    assert second.expires is not None
    assert second.expires < first.expires
    assert keyring.get(first.access_key) == first  # still good for those who hold it


def test_expired_credentials_are_refused(world: World) -> None:
    world.region.credential_lifetime(2)
    script = CALL.replace("curl -s --aws", "sleep 3; curl -s --aws")
    status = world.region.status()
    script = script.replace("REGION", status["region"]).replace("PARAMETERS", "Action=DescribeNetworkInterfaces")
    try:
        script = script.replace("SPOIL", "").replace("ENDPOINT", status["endpoint"])
        assert "<Code>RequestExpired</Code>" in world.shell(0, script)
    finally:
        world.region.credential_lifetime(6 * 3600)


def policy(effect: str, action: Any, resource: Any, **condition: Any) -> str:
    statement = {"Effect": effect, "Action": action, "Resource": resource}
    if condition:
        statement["Condition"] = condition
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([], False),
        ([policy("Allow", "ec2:Assign*", "arn:x/eni-1")], True),
        ([policy("Allow", "ec2:assignprivateipaddresses", ["arn:x/eni-?"])], True),
        ([policy("Allow", "ec2:Assign*", "arn:x/eni-2")], False),
        ([policy("Allow", "*", "*"), policy("Deny", "ec2:AssignPrivateIpAddresses", "*")], False),
        ([policy("Allow", "*", "*", StringEquals={"ec2:ResourceTag/team": "db"})], True),
        ([policy("Allow", "*", "*", StringEquals={"ec2:ResourceTag/team": "web"})], False),
        ([policy("Allow", "*", "*", StringNotEquals={"ec2:ResourceTag/team": "web"})], True),
        ([policy("Allow", "*", "*", StringEquals={"ec2:ResourceTag/other": "db"})], False),
        ([policy("Allow", "*", "*", NumericLessThan={"ec2:ResourceTag/team": "1"})], False),
    ],
)
def test_policies_are_evaluated_as_iam_does(documents: list[str], *, expected: bool) -> None:
    context = {"ec2:ResourceTag/team": "db"}
    assert allowed(documents, "ec2:AssignPrivateIpAddresses", "arn:x/eni-1", context) is expected


def test_credentials_of_two_machines_differ() -> None:
    life = timedelta(hours=1)
    assert Credentials.of_role("r", "i-1", life).secret_key != Credentials.of_role("r", "i-2", life).secret_key


def test_the_api_can_be_slow_throttled_broken_and_silent(world: World) -> None:
    before = time.monotonic()
    world.region.api(latency_ms=300)
    world.ec2.describe_vpcs()
    assert time.monotonic() - before > 0.3
    world.region.api(throttle_rate=1.0)
    assert code(world.ec2.describe_vpcs) == "RequestLimitExceeded"
    world.region.api(error_rate=1.0)
    assert code(world.ec2.describe_vpcs) == "InternalError"
    world.region.api(error_rate=1.0, actions=["DescribeSubnets"])
    world.ec2.describe_vpcs()
    world.region.api(hang=True, actions=["DescribeVpcs"])
    impatient = Config(read_timeout=1, retries={"total_max_attempts": 1})
    with pytest.raises(Exception, match=r"[Tt]imeout"):
        world.session.client("ec2", config=impatient).describe_vpcs()
    world.region.api()
    world.ec2.describe_vpcs()


def test_metadata_takes_version_two_only(world: World) -> None:
    base = "http://169.254.169.254/latest"
    assert world.shell(0, f"curl -s -o /dev/null -w '%{{http_code}}' {base}/meta-data/instance-id") == "401"
    put = f"curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: {{}}' {base}/api/token"
    get = f'curl -s -H "X-aws-ec2-metadata-token: $t" {base}'
    take = f"t=$({put.format(60)}); {get}"
    assert world.shell(0, f"{take}/meta-data/instance-id") == world.machines[0]
    mac = world.shell(0, f"{take}/meta-data/mac")
    assert mac == world.shell(0, "cat /sys/class/net/ens5/address")
    nic = f"{take}/meta-data/network/interfaces/macs/{mac}"
    assert world.shell(0, f"{nic}/local-ipv4s").split() == [world.address(0), VIP]
    assert world.shell(0, f"{nic}/interface-id") == world.enis[0]
    assert world.shell(0, f"{nic}/subnet-id") == world.subnet
    assert world.shell(0, f"{take}/meta-data/placement/region") == world.session.region_name
    assert world.shell(0, f"{take}/meta-data/iam/security-credentials/") == "mover"
    assert json.loads(world.shell(0, f"{take}/dynamic/instance-identity/document"))["instanceId"] == world.machines[0]
    assert world.shell(0, f"{take}/meta-data/nonsense -o /dev/null -w '%{{http_code}}'").endswith("404")
    assert world.shell(0, f"{put.format(0)} -o /dev/null -w '%{{http_code}}'") == "400"
    short = f"t=$({put.format(1)}); sleep 1.5; {get}/meta-data/instance-id -o /dev/null -w '%{{http_code}}'"
    assert world.shell(0, short) == "401"
    # A token is valid for the machine that requested it.
    token = world.shell(0, put.format(60))
    other = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'X-aws-ec2-metadata-token: {token}' {base}/meta-data/mac"
    assert world.shell(1, other) == "401"


def test_the_metadata_service_can_fail(world: World) -> None:
    world.region.imds(world.machines[1])
    request = (
        "curl -s -m 1 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"
    )
    assert world.shell(1, f"{request}; echo $?") == "28"
    assert world.shell(0, f"{request} >/dev/null; echo $?") == "0"
    world.region.imds(world.machines[1], down=False)
    assert world.shell(1, f"{request} >/dev/null; echo $?") == "0"


def test_key_pair_user_data_and_host_name_reach_a_machine_as_on_debian(world: World) -> None:
    assert world.ssh(0, "id -un; sudo -n id -un").split() == ["admin", "root"]
    assert world.shell(0, "cat /root/user-data") == "user data ran as root"
    assert world.ssh(0, "hostname") == f"ip-{world.address(0).replace('.', '-')}"
    assert "Debian GNU/Linux 12" in world.ssh(0, "cat /etc/os-release")


def test_the_console_shows_the_host_keys_that_ssh_offers(world: World) -> None:
    output = world.ec2.get_console_output(InstanceId=world.machines[0])["Output"]
    offered = world.shell(0, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d ' ' -f 2")
    assert "BEGIN SSH HOST KEY FINGERPRINTS" in output
    assert offered in output


def test_stop_start_reboot_and_terminate_do_what_they_say(world: World) -> None:
    eni = world.interface("10.77.0.210")
    instance = world.boot(eni)
    wait_until(lambda: world.ssh(10, "echo up") == "up", "the machine", 60)
    world.shell(instance, "touch /root/kept; echo first >/run/boot")

    world.ec2.reboot_instances(InstanceIds=[instance])
    wait_until(lambda: world.ssh(10, "test -e /run/boot || echo again") == "again", "the reboot", 60)

    world.ec2.stop_instances(InstanceIds=[instance])
    wait_until(lambda: world.state(instance) == "stopped", "the stop", 60)
    assert world.ssh(10, "echo up") == ""
    world.ec2.start_instances(InstanceIds=[instance])
    wait_until(lambda: world.ssh(10, "sudo ls /root") == "kept", "the start, with the disk as it was", 60)

    world.shell(instance, "systemctl --no-block poweroff")
    wait_until(lambda: world.state(instance) == "stopped", "a machine that powered itself off", 60)

    world.ec2.terminate_instances(InstanceIds=[instance])
    wait_until(lambda: world.state(instance) == "terminated", "the end", 60)
    found = world.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert found["Status"] == "available"

    replacement = world.boot(eni)
    wait_until(lambda: world.ssh(10, "sudo ls /root; echo new") == "new", "its replacement on the same interface", 60)
    world.ec2.terminate_instances(InstanceIds=[replacement])
    wait_until(lambda: world.state(replacement) == "terminated", "its end", 60)
    world.ec2.delete_network_interface(NetworkInterfaceId=eni)
