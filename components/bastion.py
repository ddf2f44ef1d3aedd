"""A bastion: the one machine with a public address, which forwards SSH to the others and does nothing else."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import yaml
from pulumi_command import remote

from components.remote import AWAY_SECONDS, DIAL_SECONDS, dials, run
from components.template import verbatim
from settings.topology import Instances

#: As large as Debian's images.
VOLUME_GIB = 8


@dataclass
class BastionArgs:
    #: A subnet with a route to the internet.
    subnet_id: pulumi.Input[str]
    security_group: pulumi.Input[str]
    instance_type: str
    instances: Instances
    ami: pulumi.Input[str]
    key_name: pulumi.Input[str]
    private_key: pulumi.Input[str]
    #: Whether EC2 refuses to terminate it.
    keep_running: bool = False


class Bastion(pulumi.ComponentResource):
    """An instance with an elastic address, without a role; what its sshd allows is in files/bastion/sshd.conf.

    The first connection learns its host key, as nothing that Pulumi can read has it earlier; every later connection
    demands it.
    """

    #: Its public address.
    address: pulumi.Output[str]
    instance_id: pulumi.Output[str]
    #: The way through it.
    proxy: remote.ProxyConnectionArgs

    def __init__(self, name: str, args: BastionArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:bastion:Bastion", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        interface = aws.ec2.NetworkInterface(
            f"{name}-eni", subnet_id=args.subnet_id, security_groups=[args.security_group], opts=child
        )
        elastic = aws.ec2.Eip(f"{name}-address", domain="vpc", network_interface=interface.id, opts=child)
        instance = aws.ec2.Instance(
            f"{name}-instance",
            ami=args.ami,
            instance_type=args.instance_type,
            key_name=args.key_name,
            primary_network_interface=aws.ec2.InstancePrimaryNetworkInterfaceArgs(network_interface_id=interface.id),
            metadata_options=aws.ec2.InstanceMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            root_block_device=aws.ec2.InstanceRootBlockDeviceArgs(
                encrypted=True, volume_size=VOLUME_GIB, volume_type="gp3", delete_on_termination=True
            ),
            user_data=user_data(),
            user_data_replace_on_change=True,
            disable_api_termination=args.keep_running,
            # A newer image or key is for a new machine; it must not replace the running one.
            opts=pulumi.ResourceOptions(
                parent=self, ignore_changes=["ami", "keyName"], delete_before_replace=True, depends_on=[elastic]
            ),
        )
        self.address = elastic.public_ip
        self.instance_id = instance.id
        user, private_key = args.instances.image.user, pulumi.Output.secret(args.private_key)
        ready = run(
            f"{name}-ready",
            remote.ConnectionArgs(
                host=self.address,
                user=user,
                private_key=private_key,
                dial_error_limit=dials(args.instances.boot_timeout),
                per_dial_timeout=DIAL_SECONDS,
            ),
            "cat /etc/ssh/ssh_host_ed25519_key.pub",  # which is also all that its sshd runs
            triggers=[instance.id],
            timeout=f"{round(args.instances.boot_timeout)}s",
            shell=False,
            opts=pulumi.ResourceOptions(parent=self, deleted_with=instance, ignore_changes=["connection"]),
        )
        self.proxy = remote.ProxyConnectionArgs(
            host=self.address,
            user=user,
            private_key=private_key,
            host_key=ready.stdout.apply(lambda line: " ".join(line.split()[:2])),
            dial_error_limit=dials(AWAY_SECONDS),
            per_dial_timeout=DIAL_SECONDS,
        )
        self.register_outputs({"address": self.address})


def user_data() -> str:
    """cloud-init's: the file is there before sshd starts for the first time."""
    files = [{"path": "/etc/ssh/sshd_config.d/10-mycat-ha.conf", "content": verbatim("bastion/sshd.conf")}]
    return "#cloud-config\n" + yaml.safe_dump({"write_files": files}, sort_keys=False)
