"""An EC2 instance that can be configured: booted, reachable, its host key known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pulumi
import pulumi_aws as aws
from pulumi_command import remote

from components.config_file import BASH_SYNTAX, ConfigFile, install_command
from components.interface import Interface
from components.remote import AWAY_SECONDS, DIAL_SECONDS, dials, run
from components.template import programs, render, verbatim
from constants import LIBRARY
from settings.topology import Instances


@dataclass
class MachineArgs:
    address: str
    instance_type: str
    #: Of all machines: when one of them is changed, the others have to be in service.
    instance_types: str
    instances: Instances
    interface: Interface
    ami: pulumi.Input[str]
    key_name: pulumi.Input[str]
    private_key: pulumi.Input[str]
    #: The bastion to connect through; None connects directly.
    proxy: remote.ProxyConnectionArgs | None
    #: When it installs security updates, UTC: 0 to 23, another one for each machine.
    upgrade_hour: int
    instance_profile: pulumi.Input[str] | None = None
    #: What has to be done before the instance is changed.
    after: Sequence[pulumi.Resource] = ()
    #: Whether EC2 refuses to terminate it.
    keep_running: bool = False
    #: Whether Pulumi refuses to delete or replace it as well.
    holds_data: bool = False


class Machine(pulumi.ComponentResource):
    """An instance on an interface of its own; other components run commands and install files on it.

    The first connection learns the machine's SSH host key, as nothing that Pulumi can read has it earlier; every
    later connection demands it.
    """

    instance_id: pulumi.Output[str]
    #: Name of the network device, e.g. ens5.
    device: pulumi.Output[str]
    #: Ends when the machine does its part again, after a change of its instance.
    in_service: pulumi.Resource

    def __init__(self, name: str, args: MachineArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:machine:Machine", name, {}, opts)
        self.name = name
        self.address = args.address
        self._instance = aws.ec2.Instance(
            f"{name}-instance",
            ami=args.ami,
            instance_type=args.instance_type,
            key_name=args.key_name,
            iam_instance_profile=args.instance_profile,
            primary_network_interface=aws.ec2.InstancePrimaryNetworkInterfaceArgs(
                network_interface_id=args.interface.id
            ),
            metadata_options=aws.ec2.InstanceMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            root_block_device=aws.ec2.InstanceRootBlockDeviceArgs(
                encrypted=True, volume_size=args.instances.volume_gib, volume_type="gp3", delete_on_termination=True
            ),
            user_data=f"#cloud-boothook\n{verbatim('machine/own-addresses')}",
            disable_api_termination=args.keep_running,
            # A newer image, key or user data is for new machines; it must not replace or stop the running ones.
            opts=pulumi.ResourceOptions(
                parent=self,
                ignore_changes=["ami", "keyName", "userData"],
                delete_before_replace=True,
                protect=args.holds_data,
                depends_on=args.after,
            ),
        )
        self.instance_id = self._instance.id

        ready = run(
            f"{name}-ready",
            _connection(args, seconds=args.instances.boot_timeout),
            render("machine/ready.sh.j2"),
            triggers=[self.instance_id],
            timeout=f"{round(args.instances.boot_timeout)}s",
            opts=pulumi.ResourceOptions(parent=self, deleted_with=self._instance, ignore_changes=["connection"]),
        )
        facts: pulumi.Output[dict[str, Any]] = ready.stdout.apply(json.loads)
        self.device = facts["device"]
        self._connection = _connection(args, host_key=facts["hostKey"])
        self._tools = run(
            f"{name}-tools",
            self._connection,
            # own-addresses is the machine's user data, too; this is for machines that are older than it.
            render("machine/tools.sh.j2", library=LIBRARY) + f"{LIBRARY}/own-addresses\n",
            stdin=programs(
                "machine/install-file",
                "machine/install-packages",
                "machine/own-addresses",
                "machine/leave-service",
                "machine/in-service",
            ),
            triggers=[self.instance_id],
            opts=pulumi.ResourceOptions(parent=self, deleted_with=self._instance),
        )
        self.run(
            f"{name}-upgrades",
            render("machine/upgrades.sh.j2", hour=args.upgrade_hour),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self._guard_metadata(name)
        self.file(
            f"{name}-leave-service",
            "/etc/systemd/system/leave-service.service",
            verbatim("machine/leave-service.service"),
            # Never restarted: that would be to leave service.
            apply="systemctl daemon-reload && systemctl enable --quiet leave-service.service "
            "&& systemctl --no-block start leave-service.service",
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.in_service = self.run(
            f"{name}-in-service",
            f"{LIBRARY}/in-service 900",
            triggers=[self._instance.instance_type, args.instance_types],
            timeout="30m",
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({"instanceId": self.instance_id, "device": self.device})

    def _guard_metadata(self, name: str) -> None:
        """Not by systemd's IPAddressDeny: that is for one service, and this is for whoever is not root."""
        installed = self.run(
            f"{name}-nftables",
            f"{LIBRARY}/install-packages nftables",
            opts=pulumi.ResourceOptions(parent=self),
        )
        rules = self.file(
            f"{name}-metadata-rules",
            "/etc/mycat-ha/metadata.nft",
            verbatim("machine/metadata.nft"),
            validate='/usr/sbin/nft --check --file "$STAGED"',
            apply="/usr/sbin/nft --file /etc/mycat-ha/metadata.nft",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[installed]),
        )
        self.file(
            f"{name}-metadata-unit",
            "/etc/systemd/system/guard-metadata.service",
            verbatim("machine/guard-metadata.service"),
            apply="systemctl daemon-reload && systemctl enable --quiet guard-metadata.service "
            "&& systemctl restart guard-metadata.service",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[rules]),
        )

    def run(
        self,
        name: str,
        script: pulumi.Input[str],
        *,
        opts: pulumi.ResourceOptions,
        stdin: pulumi.Input[str] | None = None,
        triggers: Sequence[pulumi.Input[str]] = (),
        timeout: str = "10m",
        shell: bool = True,
        outlives_machine: bool = False,
    ) -> remote.Command:
        """Run ``script`` with bash as root, and again when it, ``stdin``, a trigger or the machine has changed.

        Every script is therefore idempotent. There is no delete command: what was done goes with the machine.
        ``stdin`` is for secrets and file contents; what is a secret has to come as one (``pulumi.Output.secret``), and
        stays one in previews and in state. The output of a command that reads it is not logged. ``timeout`` is a
        duration as Go writes it, e.g. 10m. Without ``shell`` the script is one command line, which sudo runs.
        ``outlives_machine`` is for an effect that is not on this machine alone, such as the
        cluster's data: a new machine is then no trigger, only its connection a change, which ``opts`` can ignore.
        """
        own = [] if outlives_machine else [self.instance_id]
        return run(
            name,
            self._connection,
            script,
            stdin=stdin,
            triggers=[*own, *triggers],
            timeout=timeout,
            shell=shell,
            opts=self._tied(opts, outlives_machine=outlives_machine),
        )

    def file(
        self,
        name: str,
        path: str,
        content: pulumi.Input[str],
        *,
        opts: pulumi.ResourceOptions,
        mode: str = "0644",
        owner: str = "root:root",
        validate: pulumi.Input[str] = "",
        apply: str = "",
        gate: str = "",
    ) -> ConfigFile:
        """Install a file: stage, validate, swap, apply, check. On failure the old file is back and in force.

        ``validate`` is a command that refuses a bad file; ``$STAGED`` is the new one beside the old one. ``apply``
        makes running software take the new file, and must succeed where it does not run yet. ``gate`` shows that the
        software works with it; if it fails the old file comes back and `up` fails.
        """
        file = ConfigFile(name, opts)
        self.run(
            f"{name}-file",
            pulumi.Output.from_input(validate).apply(
                lambda command: install_command(path, mode, owner, validate=command, apply=apply, gate=gate)
            ),
            stdin=content,
            shell=False,
            opts=pulumi.ResourceOptions(parent=file),
        )
        file.register_outputs({})
        return file

    def program(self, name: str, program: str, *, opts: pulumi.ResourceOptions) -> ConfigFile:
        """Install a bash program, named as in `files/`, under its own name where the stack's programs are."""
        path = f"{LIBRARY}/{PurePosixPath(program).name}"
        return self.file(name, path, verbatim(program), mode="0755", validate=BASH_SYNTAX, opts=opts)

    def upload(self, name: str, source: str, path: str, *, opts: pulumi.ResourceOptions) -> remote.CopyToRemote:
        """Copy the deployer's file ``source``, which may be too big for stdin, to ``path`` as the user who logs in."""
        return remote.CopyToRemote(
            name,
            connection=self._connection,
            source=pulumi.FileAsset(source),
            remote_path=path,
            triggers=[self.instance_id],
            opts=self._tied(opts),
        )

    def _tied(self, opts: pulumi.ResourceOptions, *, outlives_machine: bool = False) -> pulumi.ResourceOptions:
        """``opts`` for a resource on this machine: after the tools, and forgotten when the machine is gone."""
        own = pulumi.ResourceOptions(
            depends_on=[self._tools], deleted_with=None if outlives_machine else self._instance
        )
        return pulumi.ResourceOptions.merge(own, opts)


def _connection(
    args: MachineArgs, host_key: pulumi.Input[str] | None = None, seconds: float = AWAY_SECONDS
) -> remote.ConnectionArgs:
    return remote.ConnectionArgs(
        host=args.address,
        user=args.instances.image.user,
        private_key=pulumi.Output.secret(args.private_key),
        host_key=host_key,
        proxy=args.proxy,
        dial_error_limit=dials(seconds),
        per_dial_timeout=DIAL_SECONDS,
    )
