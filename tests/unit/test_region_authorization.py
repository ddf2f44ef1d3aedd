"""What a role may do in the region: its policies, and its permissions boundary, as IAM evaluates them."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from moto.iam.models import iam_backends

from localregion.api import Api
from localregion.auth import Credentials, Denied, Request, allowed
from localregion.ec2 import ACCOUNT, backend
from localregion.imds import Keyring
from resource_types import STACK_TAG
from tests.unit.test_workflows import filled

REGION = "eu-central-1"
EVERYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
Try = Callable[[str, str, str | None], None]


@pytest.fixture
def try_() -> Try:
    """Call ``action`` on an interface of the stack ``of``, as a role of test-a that may do everything, so bounded."""
    api, iam, name = Api(REGION, Keyring(), lambda: None), iam_backends[ACCOUNT]["aws"], uuid.uuid4().hex

    def call(action: str, of: str, boundary: str | None) -> None:
        arn = None
        if boundary is not None:
            arn = iam.create_policy("", "/", boundary, uuid.uuid4().hex, {}).arn if boundary else _arn("missing")
        tags = [{"Key": STACK_TAG, "Value": "test-a"}]
        iam.create_role(name, "{}", "/", arn, "", tags, "3600")
        wide = iam.create_policy("", "/", EVERYTHING, uuid.uuid4().hex, {})
        iam.attach_role_policy(wide.arn, name)
        api.iam.changed(delay=0)
        backend(REGION).tags["eni-0abc"] = {STACK_TAG: of}
        try:
            request = Request("GET", "/", f"Action={action}&NetworkInterfaceId=eni-0abc", {}, b"")
            api._authorize(Credentials.of_role(name, "i-1", timedelta(hours=1)), "ec2", action, request)
        finally:
            del backend(REGION).tags["eni-0abc"]

    return call


def _arn(policy: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:policy/{policy}"


def test_the_shipped_boundary_leaves_a_wide_role_what_a_balancer_needs(try_: Try) -> None:
    try_("AssignPrivateIpAddresses", "test-a", filled("boundary", ACCOUNT=ACCOUNT))


@pytest.mark.parametrize(
    ("action", "of"), [("AssignPrivateIpAddresses", "production"), ("ModifyNetworkInterfaceAttribute", "test-a")]
)
def test_the_shipped_boundary_denies_a_wide_role_all_else(try_: Try, action: str, of: str) -> None:
    with pytest.raises(Denied, match="because no permissions boundary allows the ec2:"):
        try_(action, of, filled("boundary", ACCOUNT=ACCOUNT))
    # The role's own policy is not what denied it.
    assert allowed([EVERYTHING], f"ec2:{action}", "*", {})


def test_without_a_boundary_a_wide_role_may_do_everything(try_: Try) -> None:
    try_("ModifyNetworkInterfaceAttribute", "production", None)


def test_a_boundary_that_is_gone_allows_nothing(try_: Try) -> None:
    with pytest.raises(Denied, match="no permissions boundary"):
        try_("AssignPrivateIpAddresses", "test-a", "")


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"aws:PrincipalTag/a": "x", "k": "x"}, True),
        ({"aws:PrincipalTag/a": "y", "k": "x"}, False),
        ({"k": "x"}, False),
    ],
)
def test_a_policy_variable_has_the_callers_value_or_matches_nothing(context: dict[str, Any], expected: bool) -> None:
    condition = {"StringEquals": {"k": "${aws:PrincipalTag/a}"}}
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition}
    assert allowed([json.dumps({"Statement": [statement]})], "ec2:X", "*", context) is expected
