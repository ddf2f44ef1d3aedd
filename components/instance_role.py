"""IAM roles of instances."""

import json

import pulumi_aws as aws


def trust() -> str:
    """The policy by which EC2 gives a role's credentials to an instance."""
    ec2 = f"ec2.{aws.get_partition().dns_suffix}"
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": ec2}, "Action": "sts:AssumeRole"}],
        }
    )
