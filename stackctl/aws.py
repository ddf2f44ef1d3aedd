"""Clients of AWS's API that follow an Environment, as Pulumi's provider does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

from stackctl.environment import Environment
from stackctl.project import StackError, read_yaml
from stackctl.pulumi import Pulumi


class Clients(Protocol):
    """What makes clients: a boto3.Session is one."""

    def client(self, service_name: Any, /) -> Any: ...


@dataclass(frozen=True)
class _LocalClients:
    session: boto3.Session
    options: Mapping[str, Any] = field(default_factory=dict)

    def client(self, service_name: Any, /) -> Any:
        return self.session.client(service_name, **self.options)


def connect(environment: Environment, region: str | None) -> Clients:
    """Clients for ``region``, or for the environment's one. Raises StackError if neither is known."""
    variables = environment.variables
    chosen = region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    if not chosen:
        raise StackError("no AWS region: set `aws:region` in the stack's settings, or AWS_REGION")
    if environment.local_region is None:
        return boto3.Session(region_name=chosen)  # by this process's own variables, and all that botocore knows
    session = boto3.Session(
        botocore_session=_session(variables),
        region_name=chosen,
        profile_name=variables.get("AWS_PROFILE", "default"),  # a named one wins over credentials in variables
    )
    # Endpoints and proxies are the two things that botocore takes from the process's variables, whatever the session.
    return _LocalClients(session, {"endpoint_url": variables["AWS_ENDPOINT_URL"], "config": Config(proxies={})})


def connect_stack(pulumi: Pulumi) -> Clients:
    """Clients for the region of a stack: the one in its settings, else in its state, else in the environment."""
    file = pulumi.stack.config_file
    configured = read_yaml(file).get("config", {}).get("aws:region") if file.exists() else None
    if configured is None and pulumi.exists():
        configured = _region_of(pulumi.state())
    return connect(pulumi.environment, configured)


def _region_of(state: Mapping[str, Any]) -> str | None:
    """The region of the state's AWS provider, for a stack whose settings are not here."""
    for resource in state.get("resources") or ():
        if resource["type"] == "pulumi:providers:aws":
            return (resource.get("inputs") or {}).get("region")
    return None


def _session(variables: Mapping[str, str]) -> botocore.session.Session:
    """A session that is configured by ``variables`` only: botocore itself can look at the process's ones only."""
    return botocore.session.Session(
        {
            name: (key, None, next((variables[v] for v in _listed(names) if v in variables), default), convert)
            for name, (key, names, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
        }
    )


def _listed(names: str | list[str] | None) -> Iterable[str]:
    return [names] if isinstance(names, str) else names or ()
