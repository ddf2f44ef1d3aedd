"""The region's one endpoint: authentication, then faults, then authorisation, then moto."""

import io
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from werkzeug import Request as HttpRequest
from werkzeug import Response

from localregion import s3
from localregion.auth import Credentials, Denied, Request, allowed, authenticate
from localregion.ec2 import ACCOUNT, LOCK, backend
from localregion.effects import EFFECT_DELAY_MS
from localregion.iam import IAM_DELAY_MS, Iam, Role
from localregion.imds import Keyring
from localregion.partition import partition

log = logging.getLogger("localregion")
_READS = ("Describe", "Get", "List", "Lookup")
#: Services of the query protocol other than EC2, by the version of their API.
_VERSIONS = {"2011-06-15": "sts", "2010-05-08": "iam"}
#: Request parameters that name the resource an EC2 action is about (Service Authorization Reference, Amazon EC2).
_RESOURCES = {
    "NetworkInterfaceId": "network-interface",
    "InstanceId": "instance",
    "InstanceId.1": "instance",
    "SubnetId": "subnet",
    "VpcId": "vpc",
    "GroupId": "security-group",
    "VolumeId": "volume",
}


@dataclass
class ApiFaults:
    """What is wrong with the API at the moment.

    Rates are probabilities. ``actions`` None means all; S3's are named as the API has them (UploadPart), not IAM.
    ``roles_only`` spares the administrator; after ``times`` requests that it has struck (None: no end) it is over.
    """

    latency_ms: float = 0
    jitter_ms: float = 0
    error_rate: float = 0
    throttle_rate: float = 0
    #: The connection is reset before the call takes effect.
    reset_rate: float = 0
    #: The call takes effect, and the connection is closed without an answer.
    lost_rate: float = 0
    hang: bool = False
    effect_delay_ms: float = EFFECT_DELAY_MS
    iam_delay_ms: float = IAM_DELAY_MS
    actions: list[str] | None = None
    roles_only: bool = False
    times: int | None = None

    def strike(self, action: str, service: str, caller: Credentials) -> None:
        """Before the call takes effect. Raises Denied, or ConnectionError for no answer at all."""
        if not self._concerns(action, caller):
            return
        if self.hang and self._strikes(1):
            time.sleep(120)
            raise _internal_error()
        time.sleep((self.latency_ms + random.uniform(0, self.jitter_ms)) / 1000)  # noqa: S311
        if self._strikes(self.reset_rate):
            raise ConnectionResetError
        if self._strikes(self.throttle_rate):
            if service == "ec2":
                raise Denied(503, "RequestLimitExceeded", "Request limit exceeded.")
            if service == "s3":
                raise Denied(503, "SlowDown", "Please reduce your request rate.")
            raise Denied(400, "Throttling", "Rate exceeded")
        if self._strikes(self.error_rate):
            raise _internal_error()

    def lose(self, action: str, caller: Credentials) -> None:
        """After the call took effect. Raises ConnectionError if its answer is lost."""
        if self._concerns(action, caller) and self._strikes(self.lost_rate):
            raise ConnectionAbortedError

    def _concerns(self, action: str, caller: Credentials) -> bool:
        return (not self.actions or action in self.actions) and not (self.roles_only and caller.role is None)

    def _strikes(self, rate: float) -> bool:
        with LOCK:
            if random.random() >= rate or self.times == 0:  # noqa: S311
                return False
            if self.times:
                self.times -= 1
            return True


@dataclass
class Api:
    """A WSGI application. ``changed`` is called after every request that may have changed the network."""

    region: str
    keyring: Keyring
    changed: Callable[[], None]
    faults: ApiFaults = field(default_factory=ApiFaults)
    #: What was called: the role (None: the administrator), the SDK, the action as IAM names it.
    calls: set[tuple[str | None, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.lock = LOCK
        self.iam = Iam(self.region)
        self._answered: dict[tuple[str, str, str], tuple[dict[str, str], Response]] = {}
        for service in ("ec2", "iam", "sts", "ssm"):  # importing them takes longer than a failover
            self._moto.app_instances[service] = create_backend_app(service)
        self._s3 = s3.S3(create_backend_app("s3"))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return self._answer(environ)(environ, start_response)

    def _answer(self, environ: dict[str, Any]) -> Response:
        """Raises ConnectionError for no answer at all."""
        http = HttpRequest(environ)
        request = Request(
            http.method,
            http.path,
            http.query_string.decode(errors="replace"),
            {name.lower(): value for name, value in http.headers.items()},
            http.get_data(),
        )
        service = _service(request)
        try:
            return self._serve(request, service, environ)
        except Denied as denied:
            return _error(denied, service)
        except ConnectionError:  # a fault
            raise
        except Exception:
            log.exception("the endpoint failed at %s:%s", service, _action(request))
            return _error(_internal_error(), service)

    def _serve(self, request: Request, service: str, environ: dict[str, Any]) -> Response:
        """Raises Denied, and ConnectionError for no answer at all."""
        caller, region = authenticate(request, self.keyring, service)
        if service == "s3":
            return self._serve_s3(request, caller, region, environ)
        action = _action(request)
        self.calls.add((caller.role, _sdk(request), f"{service}:{action}"))
        self.faults.strike(action, service, caller)
        if service == "ec2" and region != self.region:
            raise Denied(401, "AuthFailure", f"This is the region {self.region}; the request is for {region}")
        if (service, action) == ("sts", "GetCallerIdentity"):  # needs no permission, and no policy can deny it
            return self._identity(caller)
        environ["wsgi.input"] = io.BytesIO(request.body)
        environ["CONTENT_LENGTH"] = str(len(request.body))
        with self.lock:
            self._authorize(caller, service, action, request)
            if service == "ec2":
                self.iam.check_profile(action, request)
            answer = self._once(request, service, caller, action, environ)
            # What moto fails at can have taken effect in part; what it refuses has not.
            if not action.startswith(_READS) and not 400 <= answer.status_code < 500:
                self._follow(service, action)
        if answer.status_code < 400:
            self.faults.lose(action, caller)
        return answer

    def _serve_s3(self, request: Request, caller: Credentials, region: str, environ: dict[str, Any]) -> Response:
        """Raises Denied, and ConnectionError for no answer at all.

        The region's lock is held for what IAM says only: an object can be long. The network does not follow.
        """
        if region != self.region:
            message = (
                f"The authorization header is malformed; the region '{region}' is wrong; expecting '{self.region}'"
            )
            raise Denied(400, "AuthorizationHeaderMalformed", message)
        s3.check_payload(request)
        call = s3.Call.of(request, partition(self.region).name)
        self.calls.update((caller.role, _sdk(request), need.action) for need in call.needs)
        self.faults.strike(call.operation, "s3", caller)
        with self.lock:
            refused = {need.key: why for need in call.needs if (why := self._refusal(caller, *need))}
            may_list = self._refusal(caller, *call.listing) is None
        if call.operation == "DeleteObjects":
            answer = self._s3.delete_objects(request.body, environ, refused)
        elif refused:
            raise Denied(403, "AccessDenied", next(iter(refused.values())))
        else:
            answer = self._s3.answer(call.operation, request.body, environ)
        if call.operation in ("GetObject", "HeadObject") and answer.status_code == 404 and not may_list:
            raise Denied(403, "AccessDenied", "Access Denied")
        if answer.status_code < 400:
            self.faults.lose(call.operation, caller)
        return answer

    def _once(
        self, request: Request, service: str, caller: Credentials, action: str, environ: dict[str, Any]
    ) -> Response:
        """moto's answer; to a request with the ClientToken of an earlier one that one's, which moto does not know of.

        Source: EC2 API Reference, "Ensuring idempotency". Raises Denied.
        """
        parameters = request.parameters
        key = (self._caller_arn(caller), action, parameters.get("ClientToken", ""))
        if key in self._answered:
            before, answer = self._answered[key]
            if before != parameters:
                message = f"The client token '{key[2]}' was used before, with other parameters."
                raise Denied(400, "IdempotentParameterMismatch", message)
            return answer
        try:
            answer = Response.from_app(self._moto.get_application(environ), environ, buffered=True)
        except Exception:
            log.exception("moto failed at %s:%s", service, action)
            return _error(_internal_error(), service)
        if key[2] and answer.status_code < 400:
            self._answered[key] = (parameters, answer)
        return answer

    def _follow(self, service: str, action: str) -> None:
        """Let the network, or what counts of IAM, follow a call that has taken effect.

        Its answer goes out whatever becomes of that: an error in its place would have the caller repeat it. The next
        call's change takes along what did not follow.
        """
        try:
            if service == "ec2":
                self.changed()
            elif service == "iam":
                self.iam.changed(self.faults.iam_delay_ms / 1000)
        except Exception:
            log.exception("the region does not follow %s:%s", service, action)

    def _authorize(self, caller: Credentials, service: str, action: str, request: Request) -> None:
        if caller.role is None:
            return
        parameters = request.parameters
        resources = ["*"]
        if service == "ec2" and not action.startswith(_READS):
            named = [f"{self._arn}:{kind}/{parameters[key]}" for key, kind in _RESOURCES.items() if key in parameters]
            resources = named or ["*"]
        needs = [(f"{service}:{action}", resource, self._context(resource)) for resource in resources]
        if service == "ec2" and (role := self.iam.passed_role(action, request)):
            needs.append(("iam:PassRole", role, {"iam:PassedToService": f"ec2.{partition(self.region).domain}"}))
        for need in needs:
            why = self._refusal(caller, *need)
            if why and service == "ec2":
                raise Denied(403, "UnauthorizedOperation", f"You are not authorized to perform this operation. {why}")
            if why:
                raise Denied(403, "AccessDenied", why)

    def _refusal(self, caller: Credentials, action: str, resource: str, context: Mapping[str, str]) -> str | None:
        """Why the caller may not do this; None if he may. ``context``: the condition keys of the request."""
        if caller.role is None:
            return None
        role = self.iam.in_force().roles.get(caller.role, Role())
        principal = {f"aws:PrincipalTag/{key}": value for key, value in role.tags.items()}
        context = {"aws:RequestedRegion": self.region, **context, **principal}
        # What a boundary does not allow is denied, whatever the role's own policies say.
        bounds = {"identity-based policy": role.policies}
        if role.boundary is not None:
            bounds["permissions boundary"] = role.boundary
        for bound, policies in bounds.items():
            if not allowed(policies, action, resource, context):
                return (
                    f"User: {self._caller_arn(caller)} is not authorized to perform: {action} on resource: {resource} "
                    f"because no {bound} allows the {action} action"
                )
        return None

    def _context(self, resource: str) -> dict[str, str]:
        """Condition keys of the resource (Service Authorization Reference, "Condition keys for Amazon EC2")."""
        context = {"ec2:Region": self.region}
        kind, _, identifier = resource.rpartition(":")[2].partition("/")
        ec2 = backend(self.region)
        for name, value in ec2.tags.get(identifier, {}).items():
            context |= {f"aws:ResourceTag/{name}": value, f"ec2:ResourceTag/{name}": value}
        eni = ec2.enis.get(identifier) if kind == "network-interface" else None
        if eni is not None:
            context |= {
                "ec2:NetworkInterfaceID": eni.id,
                "ec2:Subnet": f"{self._arn}:subnet/{eni.subnet.id}",
                "ec2:Vpc": f"{self._arn}:vpc/{eni.vpc_id}",
                "ec2:AvailabilityZone": eni.subnet.availability_zone,
            }
        return context

    @property
    def _arn(self) -> str:
        """What the ARNs of the region's EC2 resources begin with."""
        return f"arn:{partition(self.region).name}:ec2:{self.region}:{ACCOUNT}"

    def _caller_arn(self, caller: Credentials) -> str:
        return caller.arn(ACCOUNT, partition(self.region).name)

    def _identity(self, caller: Credentials) -> Response:
        name = f"AROAROLE:{caller.session}" if caller.role else "AIDAADMINISTRATOR"
        return Response(
            '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>{escape(self._caller_arn(caller))}</Arn><UserId>{escape(name)}</UserId><Account>{ACCOUNT}</Account>"
            "</GetCallerIdentityResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata>"
            "</GetCallerIdentityResponse>",
            content_type="text/xml",
        )


def _sdk(request: Request) -> str:
    """By its user agent: Boto3 of Python's programs, aws-sdk-go-v2 of Pulumi's provider."""
    agent = request.headers.get("user-agent", "")
    return next((sdk for sdk in ("Boto3", "aws-sdk-go-v2") if sdk in agent), agent.partition("/")[0])


def _action(request: Request) -> str:
    target = request.headers.get("x-amz-target")
    return target.rpartition(".")[2] if target else request.parameters.get("Action", "")


def _service(request: Request) -> str:
    """Whose error format the caller reads: also of a request that is signed wrongly, or not at all. Else EC2."""
    scope = re.search(r"Credential=[^/,]+/\d{8}/[^/,]+/([^/,]+)/aws4_request", request.headers.get("authorization", ""))
    if scope:
        return scope[1]
    if request.headers.get("x-amz-target", "").startswith("AmazonSSM."):
        return "ssm"
    if request.path != "/":
        return "s3"
    return _VERSIONS.get(request.parameters.get("Version", ""), "ec2")


def _internal_error() -> Denied:
    return Denied(500, "InternalError", "An internal error has occurred")


def _error(denied: Denied, service: str) -> Response:
    if service == "s3":
        return s3.error(denied)
    code, message = escape(denied.code), escape(denied.message)
    if service == "ssm":
        document = json.dumps({"__type": denied.code, "message": denied.message})
        return Response(document, denied.status, content_type="application/x-amz-json-1.1")
    if service == "ec2":
        document = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            "<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
        )
    else:
        document = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            "<RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>"
        )
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{document}', denied.status, content_type="text/xml")
