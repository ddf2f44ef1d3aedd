"""What of IAM counts: roles, policies and instance profiles as they were some seconds ago.

IAM answers at once, and the other services learn of it later (IAM User Guide, "Troubleshoot IAM", "Changes that I make
are not always immediately visible").
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localregion.auth import Denied, Request
from localregion.ec2 import iam

#: Between a call's answer and its effect. AWS names no figure; Terraform's provider speaks of ten seconds.
IAM_DELAY_MS = 3000
#: Actions that give a profile to an instance.
_GIVING = ("RunInstances", "AssociateIamInstanceProfile", "ReplaceIamInstanceProfileAssociation")


@dataclass(frozen=True)
class Role:
    tags: Mapping[str, str] = field(default_factory=dict)
    #: The documents of its own policies, and of its permissions boundary (None: it has none).
    policies: tuple[str, ...] = ()
    boundary: tuple[str, ...] | None = None


@dataclass(frozen=True)
class State:
    """All of it at one moment."""

    roles: Mapping[str, Role] = field(default_factory=dict)
    #: By name and by ARN: the ARN of its role, None if it has none.
    profiles: Mapping[str, str | None] = field(default_factory=dict)


class Iam:
    """The states that moto's IAM has had, one after the other. The caller holds moto's lock."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._states = deque([(0.0, State())])  # from when on each counts (CLOCK_MONOTONIC, seconds)

    def changed(self, delay: float) -> None:
        """What IAM has now counts in ``delay`` seconds, and after all that it had before."""
        self._states.append((time.monotonic() + delay, self._read()))

    def in_force(self) -> State:
        while len(self._states) > 1 and self._states[1][0] <= time.monotonic():
            self._states.popleft()
        return self._states[0][1]

    def passed_role(self, action: str, request: Request) -> str | None:
        """The ARN of the role that an EC2 action gives an instance, which needs iam:PassRole."""
        profiles = self.in_force().profiles
        return next((profiles[value] for _, value in _given(action, request) if value in profiles), None)

    def check_profile(self, action: str, request: Request) -> None:
        """Raises Denied if an EC2 action gives an instance a profile that does not count yet."""
        profiles = self.in_force().profiles
        for key, value in _given(action, request):
            if profiles.get(value):
                continue
            reason = f"Invalid IAM Instance Profile {'name' if key == 'Name' else 'ARN'}"
            if value in profiles:
                reason = f'IAM Instance Profile "{value}" has no associated IAM Roles'
            message = f"Value ({value}) for parameter iamInstanceProfile.{key.lower()} is invalid. {reason}"
            raise Denied(400, "InvalidParameterValue", message)

    def _read(self) -> State:
        backend = iam(self._region)
        profiles: dict[str, str | None] = {}
        for profile in backend.instance_profiles.values():
            profiles[profile.name] = profiles[profile.arn] = next((str(role.arn) for role in profile.roles), None)
        return State({role.name: _role(role, backend) for role in backend.roles.values()}, profiles)


def _given(action: str, request: Request) -> list[tuple[str, str]]:
    """How the request names the profile that an EC2 action gives an instance: as Name or Arn, and the value."""
    if action not in _GIVING:
        return []
    keys = ("Name", "Arn")
    named = [(key, request.parameters.get(f"IamInstanceProfile.{key}")) for key in keys]
    return [(key, value) for key, value in named if value is not None]


def _role(role: Any, backend: Any) -> Role:
    attached = (_default_version(policy) for policy in role.managed_policies.values())
    boundary = None
    if role.permissions_boundary_arn:
        policy = backend.managed_policies.get(role.permissions_boundary_arn)
        boundary = (_default_version(policy),) if policy else ()
    return Role({tag["Key"]: tag["Value"] for tag in role.tags}, (*role.policies.values(), *attached), boundary)


def _default_version(policy: Any) -> str:
    """The document of a managed policy that is in force."""
    return str(next(version.document for version in policy.versions if version.is_default))
