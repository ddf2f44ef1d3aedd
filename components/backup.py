"""Backups of the databases in S3: a role that may write there, and on each database what makes and tries them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components.config_file import PYTHON_SYNTAX
from components.instance_role import trust
from components.machine import Machine
from components.template import render, verbatim
from constants import ETC, LIBRARY
from settings.backup import Backup as BackupSettings

#: The program's verb, by the setting that says when it runs.
TIMERS = {"schedule": "run", "test_restore": "test"}


@dataclass
class BackupRoleArgs:
    backup: BackupSettings
    #: What the keys of this stack's backups begin with.
    prefix: str
    #: The load balancers' role if one of them is a database as well: an instance has one role only.
    shared_role: pulumi.Input[str] | None = None


class BackupRole(pulumi.ComponentResource):
    """A role that may keep backups below the stack's prefix, and see no other part of the bucket."""

    instance_profile: pulumi.Output[str]
    backup: BackupSettings
    #: What the keys of this stack's backups begin with.
    prefix: str
    #: What the role may do, as JSON.
    policy: str

    def __init__(self, name: str, args: BackupRoleArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:backup:BackupRole", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.backup, self.prefix = args.backup, args.prefix
        self.policy = json.dumps(policy(args.backup, args.prefix, aws.get_partition().partition))
        role = aws.iam.Role(
            f"{name}-role",
            description="Databases: keep backups in S3",
            permissions_boundary=args.backup.permissions_boundary,
            assume_role_policy=trust(),
            opts=child,
        )
        written = [aws.iam.RolePolicy(f"{name}-policy", role=role.id, policy=self.policy, opts=child)]
        if args.shared_role is not None:
            written.append(
                aws.iam.RolePolicy(f"{name}-shared-policy", role=args.shared_role, policy=self.policy, opts=child)
            )
        profile = aws.iam.InstanceProfile(
            f"{name}-profile", role=role.name, opts=pulumi.ResourceOptions(parent=self, depends_on=written)
        )
        self.instance_profile = profile.name
        self.register_outputs({"instanceProfile": self.instance_profile})


def policy(backup: BackupSettings, prefix: str, partition: str) -> dict[str, Any]:
    """Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3"."""
    bucket = f"arn:{partition}:s3:::{backup.bucket}"
    statements: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {"StringLike": {"s3:prefix": [f"{place}/*" for place in (prefix, *backup.read_prefixes)]}},
        },
        {
            "Effect": "Allow",
            "Action": ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
            "Resource": f"{bucket}/{prefix}/*",
        },
    ]
    if backup.read_prefixes:
        others = [f"{bucket}/{place}/*" for place in backup.read_prefixes]
        statements.append({"Effect": "Allow", "Action": "s3:GetObject", "Resource": others})
    if backup.kms_key:
        statements.append(
            {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": backup.kms_key}
        )
    return {"Version": "2012-10-17", "Statement": statements}


@dataclass
class BackupArgs:
    machine: Machine
    #: None: no backups; those of before stop.
    role: BackupRole | None
    #: Names of all databases, in the order of the settings.
    nodes: Sequence[str]
    after: Sequence[pulumi.Resource]


class Backup(pulumi.ComponentResource):
    """The program and its timers on one database; `up` fails if the program could not keep a backup."""

    def __init__(self, name: str, args: BackupArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:backup:Backup", name, {}, opts)
        machine, backup = args.machine, args.role.backup if args.role else None
        calendars = {verb: getattr(backup, setting, None) for setting, verb in TIMERS.items()}
        if off := [_timer(verb) for verb, calendar in calendars.items() if not calendar]:
            machine.run(
                f"{name}-off",
                f"for timer in {' '.join(off)}; do\n"
                '    [ ! -e "/etc/systemd/system/$timer" ] || systemctl disable --quiet --now "$timer"\n'
                '    rm -f "/etc/systemd/system/$timer"\n'
                "done\n",
                opts=pulumi.ResourceOptions(parent=self),
            )
        if args.role:
            ready = self._program(name, args, args.role)
            for verb, calendar in calendars.items():
                if calendar:
                    machine.file(
                        f"{name}-{verb}-timer",
                        f"/etc/systemd/system/{_timer(verb)}",
                        render("mariadb/database-backup.timer.j2", calendar=calendar, verb=verb),
                        validate='systemd-analyze calendar "$(sed -n "s/^OnCalendar=//p" "$STAGED")"',
                        apply=f"systemctl daemon-reload && systemctl enable --quiet {_timer(verb)} "
                        f"&& systemctl restart {_timer(verb)}",
                        opts=pulumi.ResourceOptions(parent=self, depends_on=[ready]),
                    )
        self.register_outputs({})

    def _program(self, name: str, args: BackupArgs, role: BackupRole) -> pulumi.Resource:
        machine, backup = args.machine, role.backup
        installed = machine.run(
            f"{name}-packages",
            f"{LIBRARY}/install-packages mariadb-backup python3-boto3 zstd",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*args.after, role]),
        )
        child = pulumi.ResourceOptions(parent=self, depends_on=[installed])
        settings = json.dumps(
            {
                "node": machine.name,
                "nodes": list(args.nodes),
                "bucket": backup.bucket,
                "prefix": role.prefix,
                "endpoint": backup.s3_endpoint(os.environ),
                "region": aws.get_region().region,
                "kmsKey": backup.kms_key,
                "keepDays": backup.keep_days,
                "alarmHours": backup.alarm_hours,
            },
            indent=2,
        )
        files = [
            machine.file(
                f"{name}-program",
                f"{LIBRARY}/database-backup",
                verbatim("mariadb/database_backup.py"),
                mode="0755",
                validate=PYTHON_SYNTAX,
                opts=child,
            ),
            machine.file(f"{name}-settings", f"{ETC}/backup.json", f"{settings}\n", opts=child),
            machine.file(
                f"{name}-service",
                "/etc/systemd/system/database-backup@.service",
                verbatim("mariadb/database-backup@.service"),
                apply="systemctl daemon-reload",
                opts=child,
            ),
        ]
        return machine.run(
            f"{name}-check",
            # The first one is not waited for: of a database that has grown it takes hours.
            f"{LIBRARY}/database-backup check && systemctl --no-block start database-backup@run.service",
            triggers=[settings, role.policy],
            opts=pulumi.ResourceOptions(parent=self, depends_on=files),
        )


def _timer(verb: str) -> str:
    return f"database-backup@{verb}.timer"
