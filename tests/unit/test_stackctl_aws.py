"""Credentials, accounts and roles: what stackctl says when AWS does not let it in, and as whom it comes."""

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions
from moto import mock_aws

from stackctl import aws
from stackctl.environment import Environment
from stackctl.project import StackError

REGION = "eu-central-1"


class Refusing:
    """Clients whose every call raises ``error``."""

    def __init__(self, error: Exception):
        self.error = error

    def client(self, service_name: Any, /, *, config: object = None) -> Any:
        raise self.error


def client_error(code: str) -> exceptions.ClientError:
    return exceptions.ClientError({"Error": {"Code": code, "Message": "m"}}, "GetCallerIdentity")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (client_error("ExpiredToken"), "the AWS credentials have expired: log in again"),
        (client_error("InvalidClientTokenId"), f"are not known to AWS, or not in this region .*{REGION}"),
        (client_error("AccessDenied"), "AWS refused: .*AccessDenied"),
        (exceptions.NoCredentialsError(), "no AWS credentials: log in, or set AWS_PROFILE"),
        (exceptions.EndpointConnectionError(endpoint_url="https://sts"), f"there is no region '{REGION}'"),
        (exceptions.TokenRetrievalError(provider="sso", error_msg="stale"), "stale"),
    ],
)
def test_what_aws_does_not_take_is_one_sentence(error: Exception, words: str) -> None:
    with pytest.raises(StackError, match=words) as refused:
        aws.check_account(Refusing(error), REGION, ())
    assert "\n" not in str(refused.value)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A simulated account, 123456789012, and no configuration of the user's."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


def test_another_account_is_refused_with_both_numbers(account: Any) -> None:
    environment = Environment({"AWS_REGION": REGION})
    aws.connect(environment, None, {"aws:allowedAccountIds": [123456789012]})
    with pytest.raises(StackError, match=r"wrong account: .* for 123456789012, the stack is for 111111111111"):
        aws.connect(environment, None, {"aws:allowedAccountIds": ["111111111111"]})


def test_the_stacks_profile_is_used(account: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[deployer]\naws_access_key_id = AKIADEPLOYER\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    environment = Environment({})
    session = aws.connect(environment, REGION, {"aws:profile": "deployer"})
    assert isinstance(session, boto3.Session)
    credentials = session.get_credentials()
    assert credentials is not None
    assert credentials.access_key == "AKIADEPLOYER"
    with pytest.raises(StackError, match=r"profile.*absent"):
        aws.connect(environment, REGION, {"aws:profile": "absent"})


def test_the_stacks_roles_are_assumed_one_by_another(account: Any) -> None:
    arns = [f"arn:aws:iam::{number}:role/deploy" for number in ("222222222222", "333333333333")]
    roles = [{"roleArn": arn, "sessionName": "mine", "externalId": "given"} for arn in arns]
    settings = {"aws:assumeRoles": roles, "aws:allowedAccountIds": ["333333333333"]}
    session = aws.connect(Environment({}), REGION, settings)
    assert session.client("sts").get_caller_identity()["Arn"].endswith("333333333333:assumed-role/deploy/mine")
    with pytest.raises(StackError, match=r"wrong account: .* for 222222222222"):
        aws.connect(Environment({}), REGION, {**settings, "aws:assumeRoles": roles[:1]})
