"""The check of the deploying roles' policy against recorded calls: it finds what is missing, and what is too much."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.stack.policies import DEPLOY, OTHER_USES, problems

OTHERS = [action for actions in OTHER_USES.values() for action in actions]


def policy(*actions: str) -> str:
    return json.dumps({"Statement": [{"Action": [*OTHERS, *actions]}, {"Action": "kms:Decrypt"}]})


def call(action: str, sdk: str = "aws-sdk-go-v2", role: str | None = None) -> dict[str, Any]:
    return {"action": action, "sdk": sdk, "role": role}


@pytest.mark.parametrize(
    ("calls", "allowed", "expected"),
    [
        ([call("ec2:CreateVpc")], ["ec2:CreateVpc"], []),
        ([call("ec2:DescribeVpcs"), call("sts:GetCallerIdentity")], ["ec2:Describe*"], []),
        ([call("ec2:CreateVpc")], [], ["deploy.json does not allow ec2:CreateVpc, which was called"]),
        ([], ["ec2:CreateVpc"], ["deploy.json allows ec2:CreateVpc, which nothing called"]),
        ([call("ec2:CreateVpc", role="balancer"), call("ec2:RunInstances", "Boto3")], [], []),
        (
            [call("iam:ListRoles", "Boto3")],
            ["iam:ListUsers"],
            [
                "deploy.json does not allow iam:ListRoles, which was called",
                "deploy.json allows iam:ListUsers, which nothing called",
            ],
        ),
    ],
)
def test_what_is_missing_and_what_is_too_much_is_named(
    calls: Sequence[dict[str, Any]], allowed: Sequence[str], expected: Sequence[str]
) -> None:
    assert problems(calls, policy(*allowed)) == expected


def test_a_reason_for_what_is_not_in_the_policy_is_named() -> None:
    first = sorted(OTHERS)[0]
    document = policy().replace(f'"{first}", ', "", 1).replace(f', "{first}"', "", 1)
    assert problems([], document) == [f"OTHER_USES names {first}, which deploy.json does not allow"]


def test_the_shipped_policy_allows_what_the_reasons_are_for() -> None:
    assert not [problem for problem in problems([], DEPLOY.read_text()) if problem.startswith("OTHER_USES")]
