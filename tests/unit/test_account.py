"""What a preview says when AWS does not let the deployer in."""

from typing import Any

import pulumi
import pulumi_aws
import pytest

from components import account

CALL = "invocation of aws:index/getRegion:getRegion returned an error: 1 error occurred:\n\t* "
STS = f"{CALL}Retrieving AWS account details: operation error STS: GetCallerIdentity, StatusCode: 403, api error "


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (f"{CALL}AWS account ID not allowed: 123456789012\n\n", "wrong account: .* 123456789012, .*allowedAccountIds"),
        (f"{STS}ExpiredToken: The security token included in the request is expired", "have expired: log in again"),
        (f"{STS}InvalidClientTokenId: The security token is invalid.", "are not known to AWS"),
        (f"{STS}SignatureDoesNotMatch: The request signature", "a secret that does not belong to their id"),
        (f"{CALL}No valid credential sources found. Please see", "no AWS credentials: log in"),
        (f"{CALL}invalid AWS Region: eu-nowhere-1", "no such AWS region.*eu-nowhere-1"),
        (f"{CALL}dial tcp: lookup sts.eu-nowhere-1.amazonaws.com: no such host", "no such AWS region"),
        (f"{CALL}something else", "^AWS cannot be asked: something else$"),
    ],
)
def test_one_sentence(error: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise Exception(error)

    monkeypatch.setattr(pulumi_aws, "get_region", refuse)
    with pytest.raises(account.AccessError, match=words) as refused:
        account.check()
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, pulumi.RunError)  # which Pulumi shows without a traceback
