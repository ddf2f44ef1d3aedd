"""Security groups: protocols without ports, descriptions of references, and what is in use."""

from collections.abc import Iterable
from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.models.security_groups import SecurityGroupRule

from localregion.ec2.correction import Correction, refuse

_WITH_PORTS = {"1", "6", "17", "58"}  # ICMP, TCP, UDP, ICMPv6
_initialise = SecurityGroupRule.__init__
_delete = EC2Backend.delete_security_group
_revoke_ingress = EC2Backend.revoke_security_group_ingress
_revoke_egress = EC2Backend.revoke_security_group_egress


def corrections() -> list[Correction]:
    return [
        Correction(SecurityGroupRule, "__init__", create_rule),
        Correction(SecurityGroupRule, "description", property(description)),
        Correction(EC2Backend, "delete_security_group", delete_security_group),
        Correction(EC2Backend, "revoke_security_group_ingress", revoke_security_group_ingress),
        Correction(EC2Backend, "revoke_security_group_egress", revoke_security_group_egress),
    ]


def create_rule(
    self: Any, ec2: Any, ip_protocol: str, group_id: str, from_port: Any, to_port: Any, *rest: Any, **kw: Any
) -> None:
    """Protocols other than TCP, UDP and ICMP have no ports; EC2 ignores those that are given."""
    numbered = str(ip_protocol).isdigit() and str(ip_protocol) not in _WITH_PORTS
    if numbered:
        from_port = to_port = -1
    elif str(ip_protocol) != "-1" and (from_port is None or to_port is None):
        refuse("MissingParameter", "The request must contain the parameter fromPort and toPort")
    _initialise(self, ec2, ip_protocol, group_id, from_port, to_port, *rest, **kw)
    if numbered:
        self.from_port = self.to_port = None


def description(self: Any) -> Any:
    """Also of a reference to a group; moto knows those of address ranges only."""
    return self.ip_range.get("Description") or self.source_group.get("Description")


def revoke_security_group_ingress(self: Any, *arguments: Any, **named: Any) -> None:
    _demand_rules(self, named.get("security_rule_ids") or ())
    _revoke_ingress(self, *arguments, **named)


def revoke_security_group_egress(self: Any, *arguments: Any, **named: Any) -> None:
    _demand_rules(self, named.get("security_rule_ids") or ())
    _revoke_egress(self, *arguments, **named)


def _demand_rules(ec2: Any, ids: Iterable[str]) -> None:
    """A rule that is gone has an error of its own, which Terraform's provider takes for success: an earlier call, whose
    answer was lost, has removed it. moto answers as if it had been described: InvalidPermission.NotFound.
    """
    groups = [group for of_vpc in ec2.groups.values() for group in of_vpc.values()]
    for rule_id in ids:
        if not any(group.get_rule(rule_id) for group in groups):
            refuse("InvalidSecurityGroupRuleId.NotFound", f"The security group rule ID '{rule_id}' does not exist")


def delete_security_group(self: Any, name: str | None = None, group_id: str | None = None) -> None:
    for eni in self.enis.values():
        if group_id in {group.id for group in eni._group_set}:
            refuse("DependencyViolation", f"resource {group_id} has a dependent object")
    for groups in self.groups.values():
        for group in groups.values():
            for rule in [*group.ingress_rules, *group.egress_rules]:
                if group.id != group_id and rule.source_group.get("GroupId") == group_id:
                    refuse("DependencyViolation", f"resource {group_id} has a dependent object")
    _delete(self, name, group_id)
