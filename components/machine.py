"""An EC2 instance that can be configured: booted, reachable, its host key known."""

import json
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
from pulumi_command import remote

from components.interface import Interface
from components.remote import run
from components.template import programs, render
from constants import LIBRARY
from settings import MachineSettings, Settings

INSTALL_FILE = f"{LIBRARY}/install-file"


@dataclass
class MachineArgs:
    settings: Settings
    machine: MachineSettings
    interface: Interface
    ami: pulumi.Input[str]
    key_name: pulumi.Input[str]
    instance_profile: pulumi.Input[str] | None = None


class Machine(pulumi.ComponentResource):
    """An instance on an interface of its own, ready for commands.

    The first connection learns the machine's SSH host key, as nothing that Pulumi can read has it earlier; every
    later connection demands it.
    """

    instance_id: pulumi.Output[str]
    #: Name of the network device, e.g. ens5.
    device: pulumi.Output[str]
    connection: remote.ConnectionArgs

    def __init__(self, name: str, args: MachineArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:machine:Machine", name, {}, opts)
        instances = args.settings.instances
        instance = aws.ec2.Instance(
            f"{name}-instance",
            ami=args.ami,
            instance_type=args.machine.instance_type or instances.instance_type,
            key_name=args.key_name,
            iam_instance_profile=args.instance_profile,
            primary_network_interface=aws.ec2.InstancePrimaryNetworkInterfaceArgs(
                network_interface_id=args.interface.id
            ),
            metadata_options=aws.ec2.InstanceMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            root_block_device=aws.ec2.InstanceRootBlockDeviceArgs(
                encrypted=True, volume_size=instances.volume_gib, volume_type="gp3", delete_on_termination=True
            ),
            # A newer image or key is for new machines; it must not replace the running ones.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["ami", "keyName"], delete_before_replace=True),
        )
        self.name = name
        self.address = str(args.machine.address)
        self.instance_id = instance.id
        #: What to do to every command on this machine: forget it when the machine is gone.
        self.bound = pulumi.ResourceOptions(deleted_with=instance)

        first_contact = _connection(args.settings, self.address, None)
        ready = run(
            f"{name}-ready",
            first_contact,
            render("machine/ready.sh.j2"),
            triggers=[instance.id],
            timeout=f"{round(instances.boot_timeout)}s",
            opts=pulumi.ResourceOptions.merge(
                self.bound, pulumi.ResourceOptions(parent=self, ignore_changes=["connection"])
            ),
        )
        facts: pulumi.Output[dict[str, Any]] = ready.stdout.apply(json.loads)
        self.device = facts["device"]
        self.connection = _connection(args.settings, self.address, facts["hostKey"])
        #: What every command on the machine waits for.
        self.tools = run(
            f"{name}-tools",
            self.connection,
            f"base64 --decode | tar --extract --directory={LIBRARY} --no-same-owner",
            stdin=programs("machine/install-file", "machine/install-packages"),
            triggers=[instance.id],
            opts=pulumi.ResourceOptions.merge(self.bound, pulumi.ResourceOptions(parent=self)),
        )
        self.bound = pulumi.ResourceOptions(deleted_with=instance, depends_on=[self.tools])
        self.register_outputs({"instanceId": self.instance_id, "device": self.device})


def _connection(settings: Settings, address: str, host_key: pulumi.Input[str] | None) -> remote.ConnectionArgs:
    bastion = settings.access.bastion
    private_key = pulumi.Output.secret(settings.secrets["sshPrivateKey"].get_secret_value())
    proxy = bastion and remote.ProxyConnectionArgs(
        host=bastion.host, port=bastion.port, user=bastion.user, host_key=bastion.host_key, private_key=private_key
    )
    return remote.ConnectionArgs(
        host=address,
        user=settings.instances.image.user,
        private_key=private_key,
        host_key=host_key,
        proxy=proxy,
        # Unlimited: the resource's own timeout ends the wait, the default of ten dials is over in eleven seconds.
        dial_error_limit=-1,
        per_dial_timeout=5,
    )
