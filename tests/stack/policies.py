"""The deploying roles' policy, held to what a stack's whole life has called in the region."""

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parents[2] / ".github" / "policies" / "deploy.json"

#: What deploy.json allows though a stack that is made and destroyed does not call it.
OTHER_USES: Mapping[str, frozenset[str]] = {
    "part of another call": frozenset({"ec2:CreateTags", "iam:PassRole", "iam:TagInstanceProfile", "iam:TagRole"}),
    "a setting that is changed in place": frozenset({
        "ec2:DeleteRoute",
        "ec2:DeleteTags",
        "ec2:ModifyInstanceAttribute",
        "ec2:ModifyInstanceMetadataOptions",
        "ec2:ModifyNetworkInterfaceAttribute",
        "ec2:ModifySecurityGroupRules",
        "ec2:ModifySubnetAttribute",
        "ec2:ModifyVolume",
        "ec2:ReplaceRoute",
        "ec2:StartInstances",
        "ec2:StopInstances",
        "ec2:UpdateSecurityGroupRuleDescriptionsEgress",
        "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
        "iam:PutRolePermissionsBoundary",
    }),
    "a bastion that is created": frozenset({"ec2:AssociateAddress"}),
    "an endpoint of the EC2 API": frozenset({
        "ec2:CreateVpcEndpoint",
        "ec2:DeleteVpcEndpoints",
        "ec2:ModifyVpcEndpoint",
        "route53:AssociateVPCWithHostedZone",
    }),
    "a machine's profile that is replaced": frozenset({
        "ec2:AssociateIamInstanceProfile",
        "ec2:DisassociateIamInstanceProfile",
        "ec2:ReplaceIamInstanceProfileAssociation",
    }),
    "what an interrupted run has left": frozenset({
        "ec2:AttachNetworkInterface",
        "ec2:DeleteVolume",
        "ec2:DetachNetworkInterface",
        "ec2:DisassociateAddress",
        "ec2:RebootInstances",
    }),
}  # fmt: skip


def problems(calls: Iterable[Mapping[str, Any]], document: str) -> list[str]:
    """Actions that were called and are not allowed, and those that are allowed for nothing.

    ``calls`` are the region's, of a life from the first `up` to the end of `destroy`; of what Python's programs wrote,
    which are the tests, nothing counts.
    """
    reads = ("Describe", "Get", "List")
    seen = {
        str(call["action"])
        for call in calls
        if call["role"] is None
        and (call["sdk"] != "Boto3" or call["action"].partition(":")[2].startswith(reads))
        and call["action"] != "sts:GetCallerIdentity"  # needs no permission
    }
    allowed = {
        action
        for statement in json.loads(document)["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    denied = [action for action in seen if not any(fnmatchcase(action, pattern) for pattern in allowed)]
    others = frozenset[str]().union(*OTHER_USES.values())
    # The state and its key are not the region's.
    unused = [
        pattern
        for pattern in allowed - others
        if not pattern.startswith(("s3:", "kms:")) and not any(fnmatchcase(action, pattern) for action in seen)
    ]
    return [
        *(f"deploy.json does not allow {action}, which was called" for action in sorted(denied)),
        *(f"deploy.json allows {pattern}, which nothing called" for pattern in sorted(unused)),
        *(f"OTHER_USES names {action}, which deploy.json does not allow" for action in sorted(others - allowed)),
    ]
