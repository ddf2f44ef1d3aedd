"""Whether AWS lets the deployer in, in one sentence: asked before anything is registered."""

import re

import pulumi
import pulumi_aws as aws

from constants import REFUSED


class AccessError(pulumi.RunError):
    """AWS cannot be asked; the text says why. Pulumi shows it without a traceback."""


def check() -> None:
    """Raises AccessError if the provider gets no answer with its credentials, account and region."""
    try:
        aws.get_region()
    except Exception as error:
        raise AccessError(words(str(error))) from None


def words(error: str) -> str:
    """What the provider's error means.

    Its own sentences are in hashicorp/aws-sdk-go-base and internal/provider of hashicorp/terraform-provider-aws.
    """
    if match := re.search(r"account ID not allowed: (\d+)", error):
        return f"wrong account: the AWS credentials are for {match[1]}, which is not in `aws:allowedAccountIds`"
    for code, meaning in REFUSED.items():
        if re.search(rf"\b{code}\b", error):
            return f"the AWS credentials {meaning} ({code})"
    if re.search(r"no valid credential sources|failed to refresh cached credentials|no EC2 IMDS role", error, re.I):
        return "no AWS credentials: log in, or set AWS_PROFILE or `aws:profile`"
    if re.search(r"invalid AWS region|no such host|missing region|region.*required", error, re.I):
        return f"no such AWS region, or it does not answer: see `aws:region` and AWS_REGION ({_last(error)})"
    return f"AWS cannot be asked: {_last(error)}"


def _last(error: str) -> str:
    return error.strip().splitlines()[-1].strip().removeprefix("* ")
