"""Authentication by Signature Version 4, and authorisation by IAM policies.

Sources: AWS General Reference, "Signature Version 4 signing process"; IAM User Guide, "Policy evaluation logic".
"""

import fnmatch
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, unquote


class Denied(Exception):  # noqa: N818  (an answer to the caller, not a failure)
    """A request that is not served; ``code`` and ``message`` are AWS's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Credentials:
    access_key: str
    secret_key: str
    token: str | None = None
    expires: datetime | None = None
    role: str | None = None  # None: the account's administrator
    session: str | None = None  # of a role: the instance

    @classmethod
    def administrator(cls) -> "Credentials":
        return cls("AKIA" + _letters(16), secrets.token_urlsafe(30))

    @classmethod
    def of_role(cls, role: str, session: str, lifetime: timedelta) -> "Credentials":
        expires = datetime.now(UTC).replace(microsecond=0) + lifetime
        return cls("ASIA" + _letters(16), secrets.token_urlsafe(30), secrets.token_urlsafe(200), expires, role, session)

    def arn(self, account: str, partition: str) -> str:
        if self.role is None:
            return f"arn:{partition}:iam::{account}:user/administrator"
        return f"arn:{partition}:sts::{account}:assumed-role/{self.role}/{self.session}"


def _letters(count: int) -> str:
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(count))


class Keys(Protocol):
    """Where credentials are found by their access key."""

    def get(self, access_key: str, /) -> Credentials | None: ...


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def parameters(self) -> dict[str, str]:
        pairs = parse_qsl(self.query, keep_blank_values=True)
        if self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            pairs += parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True)
        return dict(pairs)


@dataclass(frozen=True)
class _Refusals:
    """What a service says to whom it does not believe: the status, the code, the message."""

    unsigned: tuple[int, str, str] = (
        403,
        "MissingAuthenticationToken",
        "Request is missing Authentication Token (Signature Version 4 is needed)",
    )
    unknown: tuple[int, str, str] = (
        403,
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
    )
    token: tuple[int, str, str] = unknown
    signature: tuple[int, str, str] = (
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    )
    undated: tuple[int, str, str] = unknown
    skewed: tuple[int, str, str] = (400, "RequestExpired", "Request has expired.")
    expired: tuple[int, str, str] = (403, "ExpiredToken", "The security token included in the request is expired")
    skew: timedelta = timedelta(minutes=5)


_INVALID = (401, "AuthFailure", "AWS was not able to validate the provided access credentials")
#: Sources: Amazon EC2 API Reference, "Error codes"; Amazon S3 API Reference, "Error responses".
_REFUSALS = {
    "ec2": _Refusals(unknown=_INVALID, token=_INVALID, signature=_INVALID, undated=_INVALID, expired=_Refusals.skewed),
    "s3": _Refusals(
        unsigned=(403, "AccessDenied", "Access Denied"),
        unknown=(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        token=(400, "InvalidToken", "The provided token is malformed or otherwise invalid."),
        undated=(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"),
        skewed=(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ),
        expired=(400, "ExpiredToken", "The provided token has expired."),
        skew=timedelta(minutes=15),
    ),
}


def authenticate(request: Request, known: "Keys", service: str) -> tuple[Credentials, str]:
    """The caller's credentials, and the region that the request is for. Raises Denied."""
    refusals = _REFUSALS.get(service, _Refusals())
    header = request.headers.get("authorization", "")
    match = re.fullmatch(
        rf"AWS4-HMAC-SHA256\s+Credential=([^/,]+)/(\d{{8}})/([^/,]+)/{re.escape(service)}/aws4_request,\s*"
        r"SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})",
        header.strip(),
    )
    if not match:
        raise Denied(*refusals.unsigned)
    access_key, date, region, signed, signature = match.groups()
    credentials = known.get(access_key)
    if credentials is None:
        raise Denied(*refusals.unknown)
    if credentials.token != request.headers.get("x-amz-security-token"):
        raise Denied(*refusals.token)
    names = signed.split(";")
    needed = ["host", *(["x-amz-security-token"] if credentials.token else [])]
    if service == "s3":
        needed += [name for name in request.headers if name.startswith("x-amz-")]
    for name in needed:
        if name not in names:
            raise Denied(403, "SignatureDoesNotMatch", f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
    stamp = request.headers.get("x-amz-date", "")
    expected = _signature(request, credentials.secret_key, stamp, date, region, service, names)
    if not hmac.compare_digest(expected, signature):
        raise Denied(*refusals.signature)
    try:
        when = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Denied(*refusals.undated) from None
    now = datetime.now(UTC)
    if abs(now - when) > refusals.skew:
        raise Denied(*refusals.skewed)
    if credentials.expires and now > credentials.expires:
        raise Denied(*refusals.expired)
    return credentials, region


def _signature(
    request: Request, secret: str, stamp: str, date: str, region: str, service: str, names: Iterable[str]
) -> str:
    if service == "s3":  # signs the path as it is, and says itself what is wrong with the body
        path = quote(request.path, safe="/-_.~")
        claimed = request.headers.get("x-amz-content-sha256", "")
    else:
        path = quote(quote(unquote(request.path or "/"), safe="/-_.~"), safe="/-_.~%")
        payload = hashlib.sha256(request.body).hexdigest()
        claimed = request.headers.get("x-amz-content-sha256", payload)
        if claimed not in {payload, "UNSIGNED-PAYLOAD"}:
            return ""
    query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(parse_qsl(request.query, keep_blank_values=True))
    )
    canonical = "\n".join(
        [
            request.method,
            path,
            query,
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            claimed,
        ]
    )
    scope = f"{date}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def allowed(documents: Iterable[str], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """IAM's evaluation of identity policies: an explicit deny wins, then an allow, else no."""
    allow = False
    for document in documents:
        for statement in _list(json.loads(document).get("Statement", [])):
            if _applies(statement, action, resource, context):
                if statement["Effect"] == "Deny":
                    return False
                allow = True
    return allow


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    if "Action" in statement:
        named = any(_like(pattern.lower(), action.lower()) for pattern in _list(statement["Action"]))
    else:
        named = not any(_like(pattern.lower(), action.lower()) for pattern in _list(statement["NotAction"]))
    if "Resource" in statement:
        meant = _meant(statement["Resource"], resource, context)
    else:
        meant = not _meant(statement["NotResource"], resource, context)
    return (
        named
        and meant
        and all(
            _condition(operator, key, _list(values), context)
            for operator, pairs in statement.get("Condition", {}).items()
            for key, values in pairs.items()
        )
    )


def _meant(patterns: Any, resource: str, context: Mapping[str, str]) -> bool:
    filled = (_filled(pattern, context) for pattern in _list(patterns))
    return any(pattern is not None and _like(pattern, resource) for pattern in filled)


def _condition(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    """The common string and ARN operators; one that is not known here never matches."""
    if_exists = operator.endswith("IfExists")
    operator = operator.removesuffix("IfExists")
    have = {name.lower(): value for name, value in context.items()}.get(key.lower())
    negated = "Not" in operator
    if have is None:
        return if_exists or negated
    values = [filled for value in values if (filled := _filled(str(value), context)) is not None]
    tests: dict[str, Callable[[str], bool]] = {
        "StringEquals": lambda value: have == value,
        "StringEqualsIgnoreCase": lambda value: have.lower() == value.lower(),
        "StringLike": lambda value: _like(value, have),
        "ArnEquals": lambda value: _like(value, have),
        "ArnLike": lambda value: _like(value, have),
        "Bool": lambda value: have.lower() == str(value).lower(),
    }
    test = tests.get(operator.replace("Not", ""))
    if test is None:
        return False
    found = any(test(value) for value in values)
    return found != negated


def _filled(value: str, context: Mapping[str, str]) -> str | None:
    """A condition's value, or a resource, with its policy variables; None, which matches nothing, if one has no value.

    Source: IAM User Guide, "IAM policy elements: Variables and tags".
    """
    try:
        return re.sub(r"\$\{([^}]+)\}", lambda match: context[match[1]], value)
    except KeyError:
        return None


def _like(pattern: str, value: str) -> bool:
    """IAM's wildcards: * and ?; a bracket has no meaning."""
    return fnmatch.fnmatchcase(value, re.sub(r"([\[\]])", r"[\1]", pattern))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
