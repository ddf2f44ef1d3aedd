"""Backups of the databases."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from settings.base import PolicyArn, Section, Url

#: A calendar event of systemd (systemd.time(7)); the machine has the last word on it.
Calendar = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9*:,./~ _+-]+$")]
#: Characters of a key that need no encoding anywhere (S3 User Guide, "Creating object key names").
Prefix = Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*$")]


class Backup(Section):
    """Backups of the databases on the machines of role `mysql`, in S3 (docs/databases.md). The node that
    `haproxy.mysql.singleWriter` prefers is the last one that makes them.
    """

    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    """The bucket, which is made outside of the stack and outlives it."""
    prefix: Prefix | None = None
    """What the keys begin with. Default: `mycat-ha/` and the stack's name. For one stack only: it removes old
    backups."""
    schedule: Calendar = "*-*-* 02:30:00 UTC"
    """When a backup is made, as a calendar event of systemd (systemd.time(7))."""
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 14
    """For how many days a backup is kept. The newest one stays, however old it is."""
    test_restore: Calendar | None = "Sun *-*-* 04:30:00 UTC"
    """When the newest backup is restored for a trial beside a database, and every table of it is checked. It needs the
    room of the data once more. null: never."""
    alarm_hours: Annotated[int, Field(ge=1, le=8760)] = 26
    """`stackctl status` says that something is wrong when the newest backup is older than so many hours."""
    kms_key: Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+$")] | None = (
        None
    )
    """ARN of the KMS key that encrypts the backups. Default: the bucket's own encryption."""
    read_prefixes: tuple[Prefix, ...] = ()
    """Prefixes of other stacks' backups in the bucket, which `stackctl database restore --from` may read."""
    endpoint: Url | None = None
    """The S3 API as the machines reach it. Default: where the deployer's SDK is sent (`AWS_ENDPOINT_URL_S3`,
    `AWS_ENDPOINT_URL`), else AWS's own in the stack's region."""
    permissions_boundary: PolicyArn | None = None
    """ARN of the IAM policy that bounds what the databases' role may do; see `.github/policies/boundary.json`. Default:
    none."""

    def place(self, stack: str) -> str:
        """The prefix of ``stack``."""
        return self.prefix or f"mycat-ha/{stack}"

    def s3_endpoint(self, environment: Mapping[str, str]) -> str:
        """Empty for AWS's own. Source: AWS SDKs Reference Guide, "Service-specific endpoints"."""
        elsewhere = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        return (self.endpoint or elsewhere or "").rstrip("/")
