"""The account that a probe runs in, and what it leaves behind there: nothing."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

_TAG = {"Key": "mycat-ha:probe", "Value": "yes"}
_RANGE = "10.255.77.0/24"
_IMAGE = "/aws/service/debian/release/12/latest/amd64"


class Account:
    """Makes what a probe needs; everything is tagged ``mycat-ha:probe`` and removed at the end, last things first."""

    def __init__(self, session: boto3.Session, undo: ExitStack) -> None:
        config = Config(retries={"total_max_attempts": 1})  # the first answer is what is asked for
        self.session = session
        self.ec2: Any = session.client("ec2", config=config)
        self.iam: Any = session.client("iam", config=config)
        self.undo = undo
        self.vpc = self.ec2.create_vpc(CidrBlock=_RANGE, TagSpecifications=tags("vpc"))["Vpc"]["VpcId"]
        undo.callback(self.ec2.delete_vpc, VpcId=self.vpc)
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=_RANGE, TagSpecifications=tags("subnet"))
        self.subnet = made["Subnet"]["SubnetId"]
        undo.callback(self.ec2.delete_subnet, SubnetId=self.subnet)

    @staticmethod
    def address(number: int) -> str:
        return _RANGE.replace("0/24", str(number))

    def group(self) -> str:
        """A security group whose members may talk to each other."""
        made = self.ec2.create_security_group(
            GroupName="probe", Description="probe", VpcId=self.vpc, TagSpecifications=tags("security-group")
        )
        group = str(made["GroupId"])
        self.undo.callback(self.ec2.delete_security_group, GroupId=group)
        everything = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everything)
        return group

    def interface(self, number: int, group: str | None = None) -> str:
        """With this host number as its primary address."""
        made = self.ec2.create_network_interface(
            SubnetId=self.subnet,
            PrivateIpAddress=self.address(number),
            TagSpecifications=tags("network-interface"),
            **({"Groups": [group]} if group else {}),
        )
        eni = str(made["NetworkInterface"]["NetworkInterfaceId"])
        self.undo.callback(self.ec2.delete_network_interface, NetworkInterfaceId=eni)
        return eni

    def machine(self, eni: str, user_data: str, **options: Any) -> str:
        """A t3.micro with Debian 12 that runs a program at its first boot; gone when the probe ends."""
        image = self.session.client("ssm").get_parameter(Name=_IMAGE)["Parameter"]["Value"]
        made = self.ec2.run_instances(
            ImageId=image,
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": eni}],
            MetadataOptions={"HttpTokens": "required"},
            UserData=user_data,
            TagSpecifications=tags("instance"),
            **options,
        )
        machine = str(made["Instances"][0]["InstanceId"])
        self.undo.callback(self._end, machine)
        return machine

    def _end(self, machine: str) -> None:
        self.ec2.terminate_instances(InstanceIds=[machine])
        waiter = self.ec2.get_waiter("instance_terminated")
        waiter.wait(InstanceIds=[machine], WaiterConfig={"Delay": 3, "MaxAttempts": 100})

    def said(self, machine: str, last: str, seconds: float = 600) -> list[tuple[float, str]]:
        """What a machine's program wrote to the console as ``PROBE MOMENT WORDS``, once it has written ``last``.

        Raises TimeoutError if it does not.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            output = self.ec2.get_console_output(InstanceId=machine, Latest=True).get("Output", "")
            lines = [line.split("PROBE ", 1)[1].strip() for line in output.splitlines() if "PROBE " in line]
            found = [(float(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]
            if any(words.startswith(last) for _, words in found):
                return found
            time.sleep(3)
        raise TimeoutError(f"{machine} has not written '{last}' to its console within {seconds:g} s")


def tags(kind: str) -> Any:
    return [{"ResourceType": kind, "Tags": [_TAG]}]


@contextmanager
def account(description: str, makes: str, cost: str) -> Iterator[Account]:
    """Where a probe runs; ``description`` is what it finds out."""
    parser = argparse.ArgumentParser(description=f"{description} Makes {makes}. Costs {cost}.")
    parser.add_argument("--yes", action="store_true", help="do it")
    parser.add_argument("--local", action="store_true", help="on a local region, to try the probe itself")
    arguments = parser.parse_args()
    session = boto3.Session()
    endpoint = str(session.client("ec2").meta.endpoint_url)
    host = urlsplit(endpoint).hostname or ""
    real = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    if real is arguments.local:
        asked = "a local region was asked for" if real else "this is not AWS; add --local to try the probe itself"
        sys.exit(f"{endpoint}: {asked}")
    identity = session.client("sts").get_caller_identity()["Account"]
    print(f"{description}\naccount {identity}, region {session.region_name}: makes {makes}")
    print(f"costs {cost}; all of it is removed at the end, and carries the tag {_TAG['Key']} if it is not")
    if not arguments.yes:
        sys.exit("add --yes to do it")
    if not real:
        print("on a LOCAL REGION: the answers below are not AWS's")
    with ExitStack() as undo:
        yield Account(session, undo)


def answer(call: Any, **arguments: Any) -> str:
    """What a call answers, in words: ``accepted``, or the error's code and message."""
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]
        return f"{found['Code']}: {found['Message']}"
    return "accepted"
