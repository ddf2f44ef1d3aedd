"""The two HTTP services that claim-vip talks to, on loopback: EC2's API and the instance metadata service.

Both behave well until they are told otherwise, and keep what they were asked. Signatures are checked by botocore's own
signer.
"""

import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

REGION = "eu-central-1"
ROLE = "mycat-ha-role"
HANG_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: str = ""
    hang: bool = False  # nothing is sent until the service ends
    drop: bool = False  # the connection is closed without an answer
    promised: int | None = None  # a Content-Length that is not kept


def error(code: str, status: int = 400, message: str = "no") -> Answer:
    """An error as EC2 sends it."""
    body = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors></Response>"
    return Answer(status, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}')


HANG = Answer(200, hang=True)
DROP = Answer(200, drop=True)


def cut(answer: Answer) -> Answer:
    """The first half of an answer, then silence."""
    return Answer(answer.status, answer.body[: len(answer.body) // 2], hang=True, promised=len(answer.body))


class _Service:
    """An HTTP server in threads; answers that are planned are given first, one each, then ``respond`` decides."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                answer = service.respond(self.command, self.path, dict(self.headers.items()), body)
                self.close_connection = True
                if answer.drop or (answer.hang and answer.promised is None):
                    if answer.hang:
                        service._ended.wait(HANG_SECONDS)
                    return
                content = answer.body.encode()
                self.send_response(answer.status)
                self.send_header("Content-Length", str(answer.promised or len(content)))
                self.end_headers()
                self.wfile.write(content)
                if answer.hang:
                    self.wfile.flush()
                    service._ended.wait(HANG_SECONDS)

            do_GET = do_PUT = do_POST = _handle  # noqa: N815  names of the standard library

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  name of the standard library
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has gone away is no news here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def respond(self, method: str, path: str, headers: dict[str, str], body: str) -> Answer:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """From now on connections are refused."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


def _plan() -> "defaultdict[str, list[Answer]]":
    return defaultdict(list)


@dataclass(frozen=True)
class Keys:
    access: str
    secret: str
    token: str
    expires: datetime

    @classmethod
    def new(cls, lifetime: timedelta = timedelta(hours=6)) -> "Keys":
        expires = datetime.now(UTC).replace(microsecond=0) + lifetime
        access = "ASIA" + secrets.token_hex(8).upper()
        # What a secret and a token may hold besides letters.
        return cls(access, f"{secrets.token_hex(8)}/+{secrets.token_hex(8)}", f"{secrets.token_hex(40)}/+==", expires)

    def document(self, **changes: str | None) -> str:
        """As the metadata service writes it."""
        known: dict[str, str | None] = {
            "Code": "Success",
            "LastUpdated": "2024-01-01T00:00:00Z",
            "Type": "AWS-HMAC",
            "AccessKeyId": self.access,
            "SecretAccessKey": self.secret,
            "Token": self.token,
            "Expiration": self.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return json.dumps({key: value for key, value in (known | changes).items() if value is not None}, indent=2)


@dataclass
class Metadata(_Service):
    """IMDSv2: nothing without a token of its own."""

    keys: Keys
    interface: str
    #: By path (without /latest/meta-data/): the next answers.
    planned: "defaultdict[str, list[Answer]]" = field(default_factory=_plan)
    #: By path: a function that is called before the answer.
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    mac: str = "02:00:00:00:00:01"
    #: The interface's addresses, as the machine sees them.
    addresses: Callable[[], list[str]] = list

    def __post_init__(self) -> None:
        super().__init__()

    def respond(self, method: str, path: str, headers: dict[str, str], body: str) -> Answer:
        name = path.removeprefix("/latest/").removeprefix("meta-data/")
        self.asked.append(name)
        self.on.get(name, lambda: None)()
        if self.planned[name]:
            return self.planned[name].pop(0)
        if (method, path) == ("PUT", "/latest/api/token"):
            if not headers.get("X-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
                return Answer(400)
            self.tokens.add(token := secrets.token_urlsafe(30))
            return Answer(200, token)
        if headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return Answer(401)
        if name == f"network/interfaces/macs/{self.mac}/local-ipv4s":
            return Answer(200, "\n".join(self.addresses()))
        known = {
            "mac": self.mac,
            f"network/interfaces/macs/{self.mac}/interface-id": self.interface,
            f"iam/security-credentials/{ROLE}": self.keys.document(),
        }
        return Answer(200, known[name]) if name in known else Answer(404, "<html>Not Found</html>")


@dataclass
class Ec2(_Service):
    """Who holds one address; `AssignPrivateIpAddresses` and `DescribeNetworkInterfaces` as claim-vip uses them."""

    keys: list[Keys]
    address: str
    subnet: str
    holder: str | None = None
    #: Interfaces that the role's policy names.
    allowed: set[str] = field(default_factory=set)
    #: How many looks see the old holder after a write.
    lag: int = 0
    #: By action: the next answers.
    planned: "defaultdict[str, list[Answer]]" = field(default_factory=_plan)
    #: By action: a function that is called before the answer.
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    calls: list[dict[str, str]] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._seen, self._unseen = self.holder, 0

    def actions(self) -> list[str]:
        return [call["Action"] for call in self.calls]

    def respond(self, method: str, path: str, headers: dict[str, str], body: str) -> Answer:
        parameters = dict(parse_qsl(body, keep_blank_values=True))
        self.calls.append(parameters)
        self.hosts.append(headers.get("Host", ""))
        action = parameters.get("Action", "")
        self.on.get(action, lambda: None)()
        if self.planned[action]:
            return self.planned[action].pop(0)
        refused = self._refused(method, path, headers, body)
        if refused:
            return refused
        if parameters.get("Version") != "2016-11-15":
            return error("InvalidParameterValue", message="version")
        if action == "AssignPrivateIpAddresses":
            return self._assign(parameters)
        if action == "DescribeNetworkInterfaces":
            return self._describe(parameters)
        return error("InvalidAction")

    def _refused(self, method: str, path: str, headers: dict[str, str], body: str) -> Answer | None:
        """EC2's answer to a request that is not signed as it must be, by botocore's own signer."""
        lower = {name.lower(): value for name, value in headers.items()}
        scheme, _, rest = lower.get("authorization", "").partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        access, _, scope = fields.get("Credential", "").partition("/")
        keys = next((keys for keys in self.keys if keys.access == access), None)
        stamp, signed = lower.get("x-amz-date", ""), fields.get("SignedHeaders", "").split(";")
        if keys is None or scheme != "AWS4-HMAC-SHA256" or lower.get("x-amz-security-token") != keys.token:
            return error("AuthFailure", 401, "AWS was not able to validate the provided access credentials")
        if datetime.now(UTC) > keys.expires:
            return error("RequestExpired", 400, "Request has expired.")
        if scope != f"{stamp[:8]}/{REGION}/ec2/aws4_request" or not {"host", "x-amz-security-token"} <= set(signed):
            return error("AuthFailure", 401, "scope or signed headers")
        request = AWSRequest(
            method, f"http://{lower['host']}{path}", {name: lower[name] for name in signed}, body.encode()
        )
        request.context["timestamp"] = stamp
        signer = SigV4Auth(Credentials(keys.access, keys.secret, keys.token), "ec2", REGION)
        expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        if expected != fields.get("Signature"):
            return error("AuthFailure", 401, "signature")
        return None

    def _assign(self, parameters: dict[str, str]) -> Answer:
        interface, address = parameters.get("NetworkInterfaceId", ""), parameters.get("PrivateIpAddress.1")
        if interface not in self.allowed:
            return error("UnauthorizedOperation", 403, "You are not authorized to perform this operation.")
        if address != self.address:
            return error("InvalidParameterValue", message=f"Address {address} does not fall within the subnet")
        if self.holder not in {None, interface} and parameters.get("AllowReassignment") != "true":
            return error("InvalidParameterValue", message=f"{address} is already assigned to another interface")
        self._seen, self._unseen = self.holder, self.lag
        self.holder = interface
        return Answer(200, _response("AssignPrivateIpAddresses", "<return>true</return>"))

    def _describe(self, parameters: dict[str, str]) -> Answer:
        filters = {
            parameters[f"Filter.{n}.Name"]: parameters[f"Filter.{n}.Value.1"]
            for n in (1, 2)
            if f"Filter.{n}.Name" in parameters
        }
        assert filters == {"addresses.private-ip-address": self.address, "subnet-id": self.subnet}, filters
        holder = self.holder
        if self._unseen > 0:
            self._unseen -= 1
            holder = self._seen
        return Answer(200, self.described(holder))

    @staticmethod
    def described(holder: str | None) -> str:
        """The answer's text that says that ``holder`` has the address."""
        items = f"<item><networkInterfaceId>{holder}</networkInterfaceId><status>in-use</status></item>"
        return _response(
            "DescribeNetworkInterfaces", f"<networkInterfaceSet>{items if holder else ''}</networkInterfaceSet>"
        )


def _response(action: str, content: str) -> str:
    space = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{space}">\n'
        f"    <requestId>59dbff89-35bd-4eac-99ed-be587EXAMPLE</requestId>\n    {content}\n</{action}Response>"
    )
