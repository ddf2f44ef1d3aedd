"""The EC2 API inside the VPC, so that a failover needs neither NAT gateway nor internet gateway."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass
class Ec2EndpointArgs:
    vpc_id: pulumi.Input[str]
    #: The load balancers' subnet.
    subnet_id: pulumi.Input[str]
    #: Lets the load balancers in, to port 443.
    security_group: pulumi.Input[str]


class Ec2Endpoint(pulumi.ComponentResource):
    """An interface endpoint. With private DNS the region's own name of the EC2 API leads to it, in the whole VPC."""

    def __init__(self, name: str, args: Ec2EndpointArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:ec2_endpoint:Ec2Endpoint", name, {}, opts)
        endpoint = aws.ec2.VpcEndpoint(
            f"{name}-vpce",
            vpc_id=args.vpc_id,
            service_name=f"{aws.get_partition().reverse_dns_prefix}.{aws.get_region().region}.ec2",
            vpc_endpoint_type="Interface",
            subnet_ids=[args.subnet_id],
            security_group_ids=[args.security_group],
            private_dns_enabled=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({"id": endpoint.id})
