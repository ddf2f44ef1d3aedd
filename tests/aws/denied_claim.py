"""What does a claim get that the role may not make, and how long until a changed policy counts?

claim-vip fetches credentials anew after some error codes, and `probe` takes some for a proof of permission; both go by
what is written here and there, not by what was seen.
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from tests.aws.account import Account, account, answer

PROGRAM = Path(__file__).with_name("denied_claim_machine.sh")
ROLE = "mycat-ha-probe"
SECONDS = 60.0  # from a changed policy until its effect is looked for


def main() -> None:
    makes = (
        "a VPC with an internet gateway, a security group, two interfaces, an Elastic IP, a role with an instance "
        "profile, and a t3.micro for six minutes"
    )
    with account((__doc__ or "").splitlines()[0], makes, "less than 0.01 USD") as here:
        _ask(here)


def _ask(here: Account) -> None:
    own, other = _interfaces(here)
    first, taken = here.address(100), here.address(101)
    assign = here.ec2.assign_private_ip_addresses
    assign(NetworkInterfaceId=other, PrivateIpAddresses=[taken])
    refused: dict[str, dict[str, Any]] = {
        "an address of another interface, without AllowReassignment": {"PrivateIpAddresses": [taken]},
        "a primary address of another interface": {
            "PrivateIpAddresses": [here.address(11)],
            "AllowReassignment": True,
        },
        "an address outside of the subnet": {"PrivateIpAddresses": ["10.255.78.9"]},
    }
    for what, arguments in refused.items():
        print(f"{what}: {answer(assign, NetworkInterfaceId=own, **arguments)}")
    _role(here)
    program = PROGRAM.read_text()
    for name, value in {
        "@ROLE@": ROLE,
        "@ENI@": own,
        "@VIP@": first,
        "@REGION@": str(here.session.region_name),
        "@ENDPOINT@": str(here.ec2.meta.endpoint_url),
    }.items():
        program = program.replace(name, value)
    machine = _run(here, own, program)
    here.said(machine, "ready")
    time.sleep(15)  # a few denials
    region, owner = here.session.region_name, here.session.client("sts").get_caller_identity()
    partition = owner["Arn"].split(":")[1]
    resource = f"arn:{partition}:ec2:{region}:{owner['Account']}:network-interface/{own}"
    statement = {"Effect": "Allow", "Action": "ec2:AssignPrivateIpAddresses", "Resource": resource}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    here.iam.put_role_policy(RoleName=ROLE, PolicyName="claim", PolicyDocument=policy)
    granted = time.time()
    time.sleep(SECONDS)
    here.iam.delete_role_policy(RoleName=ROLE, PolicyName="claim")
    revoked = time.time()
    time.sleep(SECONDS)
    for at, words in here.said(machine, "ready"):
        print(f"  {at - granted:8.2f} s after the policy, {at - revoked:8.2f} s after its end: {words}")


def _interfaces(here: Account) -> tuple[str, str]:
    """Two; the first one's machine reaches the EC2 API by a public address."""
    group = here.group()
    gateway = here.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    here.undo.callback(here.ec2.delete_internet_gateway, InternetGatewayId=gateway)
    here.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=here.vpc)
    here.undo.callback(here.ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=here.vpc)
    filters = [{"Name": "vpc-id", "Values": [here.vpc]}]
    table = here.ec2.describe_route_tables(Filters=filters)["RouteTables"][0]["RouteTableId"]
    here.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    own, other = here.interface(10, group), here.interface(11, group)
    address = here.ec2.allocate_address(Domain="vpc")["AllocationId"]
    here.undo.callback(here.ec2.release_address, AllocationId=address)
    linked = here.ec2.associate_address(AllocationId=address, NetworkInterfaceId=own)["AssociationId"]
    here.undo.callback(here.ec2.disassociate_address, AssociationId=linked)
    return own, other


def _role(here: Account) -> None:
    domain = "amazonaws.com.cn" if str(here.session.region_name).startswith("cn-") else "amazonaws.com"
    trust = {"Effect": "Allow", "Principal": {"Service": f"ec2.{domain}"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    here.iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=document)
    here.undo.callback(here.iam.delete_role, RoleName=ROLE)
    here.undo.callback(_forget_policy, here)
    here.iam.create_instance_profile(InstanceProfileName=ROLE)
    here.undo.callback(here.iam.delete_instance_profile, InstanceProfileName=ROLE)
    here.iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
    here.undo.callback(here.iam.remove_role_from_instance_profile, InstanceProfileName=ROLE, RoleName=ROLE)


def _forget_policy(here: Account) -> None:
    with suppress(ClientError):
        here.iam.delete_role_policy(RoleName=ROLE, PolicyName="claim")


def _run(here: Account, eni: str, program: str) -> str:
    """EC2 learns of a new instance profile some time after IAM: how long is an answer as well."""
    started = time.monotonic()
    while True:
        try:
            machine = here.machine(eni, program, IamInstanceProfile={"Name": ROLE})
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidParameterValue" or time.monotonic() > started + 120:
                raise
            time.sleep(1)
        else:
            print(f"RunInstances accepts a new instance profile {time.monotonic() - started:.1f} s after it was made")
            return machine


if __name__ == "__main__":
    main()
