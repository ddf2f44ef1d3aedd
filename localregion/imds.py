"""The instance metadata service, version 2 only (EC2 User Guide, "Instance metadata and user data")."""

import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from werkzeug import Request, Response

from localregion.auth import Credentials
from localregion.model import Eni
from localregion.partition import partition

#: The versions that there are; all show the newest tree, as software asks for the version that has what it looks for.
_ROOTS = (
    *("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01"),
    *("2009-04-04", "2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19"),
    *("2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03"),
    *("2021-03-23", "2021-07-15", "2022-09-24", "2024-04-11", "latest"),
)
Tree = dict[str, Any]  # path -> text, or a function that gives it


class Metadata:
    """Version 2 of the service: the tokens, and what each of them opens."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[str, float]] = {}  # token -> (instance, end by the monotonic clock)
        self._lock = threading.Lock()

    def answer(self, request: Request, instance_id: str, tree: Callable[[], Tree]) -> Response:
        """The answer to a request of this instance; ``tree`` gives its metadata."""
        if request.path.rstrip("/") == "/latest/api/token":
            return self._token(request, instance_id)
        token = request.headers.get("X-aws-ec2-metadata-token")
        with self._lock:
            owner, end = self._tokens.get(token or "", ("", 0.0))
        if owner != instance_id or time.monotonic() > end:
            return Response("", 401, content_type="text/plain")
        root, _, path = request.path.strip("/").partition("/")
        if not root:
            return Response("\n".join(_ROOTS), content_type="text/plain")
        if root not in _ROOTS or request.method != "GET":
            return Response("", 404, content_type="text/plain")
        return _look_up(tree(), path)

    def _token(self, request: Request, instance_id: str) -> Response:
        if request.method != "PUT":
            return Response("", 405)
        if "X-Forwarded-For" in request.headers:
            return Response("", 403)
        try:
            seconds = int(request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", ""))
        except ValueError:
            seconds = 0
        if not 1 <= seconds <= 21600:
            return Response("", 400)
        token = secrets.token_urlsafe(40)
        with self._lock:
            now = time.monotonic()
            self._tokens = {t: (i, end) for t, (i, end) in self._tokens.items() if end > now}
            self._tokens[token] = (instance_id, now + seconds)
        return Response(
            token, headers={"X-aws-ec2-metadata-token-ttl-seconds": str(seconds)}, content_type="text/plain"
        )


def _look_up(tree: Tree, path: str) -> Response:
    path = path.strip("/")
    value = tree.get(path, tree.get(f"{path}/"))
    if value is not None:
        text = value() if callable(value) else value
        if text is not None:
            return Response(text, content_type="text/plain")
    below = {name[len(path) :].lstrip("/") for name in tree if not path or name.startswith(f"{path}/")}
    names = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in below if name})
    if not names:
        return Response("", 404, content_type="text/plain")
    return Response("\n".join(names), content_type="text/plain")


class Keyring:
    """Every set of credentials that is valid. Those of a role are renewed before they expire."""

    def __init__(self) -> None:
        self._lifetime = timedelta(hours=6)
        self._all: dict[str, Credentials] = {}
        self._current: dict[str, Credentials] = {}  # by role and instance
        self._lock = threading.Lock()

    def set_lifetime(self, lifetime: timedelta) -> None:
        """Of credentials that are issued from now on; those that were issued before stay valid as long as they were."""
        with self._lock:
            self._lifetime = lifetime
            self._current = {}

    def add(self, credentials: Credentials) -> None:
        with self._lock:
            self._all[credentials.access_key] = credentials

    def get(self, access_key: str) -> Credentials | None:
        with self._lock:
            return self._all.get(access_key)

    def of_role(self, role: str, instance_id: str) -> Credentials:
        """Those that the metadata service shows now: new ones from half of their life on."""
        now = datetime.now(UTC)
        with self._lock:
            current = self._current.get(f"{role}/{instance_id}")
            if current is None or current.expires is None or current.expires - now < self._lifetime / 2:
                current = Credentials.of_role(role, instance_id, self._lifetime)
                self._current[f"{role}/{instance_id}"] = current
                self._all[current.access_key] = current
            return current


def tree(
    instance: Any,
    in_force: Eni,
    region: str,
    profile: Any | None,
    credentials: Callable[[str], Credentials],
    key: str | None,
) -> Tree:
    """The paths below ``latest/`` of one instance (a moto instance and its instance profile, if it has one).

    They have what cloud-init's EC2 data source reads (it walks the whole tree), and what programs commonly ask for.
    ``in_force`` is its interface as the network has it.
    """
    eni = instance.nics[0]
    mac = eni.mac_address
    vpc = instance.ec2_backend.get_vpc(eni.vpc_id)
    nic = f"meta-data/network/interfaces/macs/{mac}"
    secondary = sorted(in_force.addresses - {in_force.primary})
    found: Tree = {
        "meta-data/ami-id": instance.image_id,
        "meta-data/ami-launch-index": "0",
        "meta-data/ami-manifest-path": "(unknown)",
        "meta-data/block-device-mapping/ami": "/dev/xvda",
        "meta-data/block-device-mapping/root": "/dev/xvda",
        "meta-data/hostname": instance.private_dns_name,
        "meta-data/local-hostname": instance.private_dns_name,
        "meta-data/instance-action": "none",
        "meta-data/instance-id": instance.id,
        "meta-data/instance-life-cycle": "on-demand",
        "meta-data/instance-type": instance.instance_type,
        "meta-data/local-ipv4": eni.private_ip_address,
        "meta-data/mac": mac,
        "meta-data/placement/availability-zone": eni.subnet.availability_zone,
        "meta-data/placement/region": region,
        "meta-data/profile": "default-hvm",
        "meta-data/security-groups": "\n".join(sorted(group.name for group in eni.group_set)),
        "meta-data/services/domain": partition(region).domain,
        "meta-data/services/partition": partition(region).name,
        f"{nic}/device-number": "0",
        f"{nic}/interface-id": eni.id,
        f"{nic}/local-hostname": instance.private_dns_name,
        f"{nic}/local-ipv4s": "\n".join(map(str, (in_force.primary, *secondary))),
        f"{nic}/mac": mac,
        f"{nic}/owner-id": eni.owner_id,
        f"{nic}/security-groups": "\n".join(sorted(group.name for group in eni.group_set)),
        f"{nic}/security-group-ids": "\n".join(sorted(group.id for group in eni.group_set)),
        f"{nic}/subnet-id": eni.subnet.id,
        f"{nic}/subnet-ipv4-cidr-block": eni.subnet.cidr_block,
        f"{nic}/vpc-id": eni.vpc_id,
        f"{nic}/vpc-ipv4-cidr-block": vpc.cidr_block,
        f"{nic}/vpc-ipv4-cidr-blocks": vpc.cidr_block,
        "dynamic/instance-identity/document": json.dumps(
            {
                "accountId": instance.owner_id,
                "architecture": instance.architecture,
                "availabilityZone": eni.subnet.availability_zone,
                "imageId": instance.image_id,
                "instanceId": instance.id,
                "instanceType": instance.instance_type,
                "privateIp": eni.private_ip_address,
                "region": region,
                "version": "2017-09-30",
            },
            indent=2,
        ),
    }
    if key:
        # The one list that does not name what is below it: by number, with the key pair's name.
        found |= {"meta-data/public-keys/": f"0={instance.key_name}", "meta-data/public-keys/0/openssh-key": key}
    if instance.user_data:
        found["user-data"] = (
            instance.user_data.decode() if hasattr(instance.user_data, "decode") else instance.user_data
        )
    if profile is not None:
        for role in profile.roles:
            found["meta-data/iam/info"] = json.dumps({"Code": "Success", "InstanceProfileArn": profile.arn})
            found[f"meta-data/iam/security-credentials/{role.name}"] = lambda role=role: _document(
                credentials(role.name)
            )
    return found


def _document(credentials: Credentials) -> str:
    assert credentials.expires is not None
    return json.dumps(
        {
            "Code": "Success",
            "LastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Type": "AWS-HMAC",
            "AccessKeyId": credentials.access_key,
            "SecretAccessKey": credentials.secret_key,
            "Token": credentials.token,
            "Expiration": credentials.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        indent=2,
    )
