"""Clients of AWS's API that follow an Environment and a stack's settings, as Pulumi's provider does."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import boto3
import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

from constants import REFUSED
from stackctl import esc
from stackctl.environment import Environment
from stackctl.project import StackError, read_yaml
from stackctl.pulumi import Pulumi


class Clients(Protocol):
    """What makes clients: a boto3.Session is one."""

    def client(self, service_name: Any, /, *, config: Config | None = None) -> Any: ...


@dataclass(frozen=True)
class _LocalClients:
    session: boto3.Session
    options: Mapping[str, Any] = field(default_factory=dict)

    def client(self, service_name: Any, /, *, config: Config | None = None) -> Any:
        options = dict(self.options)
        if config is not None:
            options["config"] = options["config"].merge(config) if "config" in options else config
        return self.session.client(service_name, **options)


@contextmanager
def _in_words(region: str) -> Iterator[None]:
    """What goes wrong before AWS looks at a request, as a StackError of one sentence."""
    try:
        yield
    except exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSED:
            raise StackError(f"the AWS credentials {REFUSED[code]} ({code}, region {region})") from None
        raise StackError(f"AWS refused: {error}") from None
    except exceptions.NoCredentialsError:
        raise StackError("no AWS credentials: log in, or set AWS_PROFILE or `aws:profile`") from None
    except exceptions.EndpointConnectionError as error:
        raise StackError(f"AWS does not answer, or there is no region '{region}' (`aws:region`): {error}") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        raise StackError(f"AWS (region {region}): {error}") from None


def check_account(clients: Clients, region: str, allowed: Sequence[str]) -> None:
    """Raises StackError, in a sentence, if AWS does not take the credentials or they are another account's."""
    with _in_words(region):
        account = clients.client("sts").get_caller_identity()["Account"]
    if allowed and account not in allowed:
        raise StackError(
            f"wrong account: the AWS credentials are for {account}, the stack is for {', '.join(allowed)} "
            "(`aws:allowedAccountIds`)"
        )


def assume(session: boto3.Session, roles: Sequence[Mapping[str, Any]], region: str) -> boto3.Session:
    """A session in the last of the roles, each assumed by the one before it: `aws:assumeRoles` of the provider.

    Raises StackError if one of them may not be assumed.
    """
    for role in roles:
        request = {"RoleArn": role["roleArn"], "RoleSessionName": role.get("sessionName", "stackctl")}
        for theirs, its in (("externalId", "ExternalId"), ("policy", "Policy"), ("policyArns", "PolicyArns")):
            if theirs in role:
                request[its] = role[theirs] if its != "PolicyArns" else [{"arn": arn} for arn in role[theirs]]
        with _in_words(region):
            given = session.client("sts").assume_role(**request)["Credentials"]
        session = boto3.Session(
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
            region_name=region,
        )
    return session


def connect(
    environment: Environment,
    region: str | None,
    settings: Mapping[str, Any] | None = None,
    given: Mapping[str, str] | None = None,
) -> Clients:
    """Clients for ``region``, or for the environment's one; on AWS with profile and roles of a stack's ``settings``.

    ``given`` are the variables of the stack's Pulumi ESC environments, which go before this process's own.
    Raises StackError if no region is known, or AWS does not let them in.
    """
    variables = dict(environment.variables)
    if environment.local_region is None:
        variables |= given or {}
    chosen = region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    if not chosen:
        raise StackError("no AWS region: set `aws:region` in the stack's settings, or AWS_REGION")
    if environment.local_region is None:
        settings = settings or {}
        with _in_words(chosen):  # by this process's own variables, and all that botocore knows
            own = _own(chosen, settings.get("aws:profile"), given or {})
        assumed = assume(own, settings.get("aws:assumeRoles") or (), chosen)
        check_account(assumed, chosen, [str(one) for one in settings.get("aws:allowedAccountIds") or ()])
        return assumed
    session = boto3.Session(
        botocore_session=_session(variables),
        region_name=chosen,
        profile_name=variables.get("AWS_PROFILE", "default"),  # a named one wins over credentials in variables
    )
    # Endpoints and proxies are the two things that botocore takes from the process's variables, whatever the session.
    return _LocalClients(session, {"endpoint_url": variables["AWS_ENDPOINT_URL"], "config": Config(proxies={})})


def _own(region: str, profile: str | None, given: Mapping[str, str]) -> boto3.Session:
    """Credentials of the profile, else those that are given, else of all that botocore knows."""
    profile = profile or given.get("AWS_PROFILE")
    if profile or "AWS_ACCESS_KEY_ID" not in given:
        return boto3.Session(region_name=region, profile_name=profile)
    return boto3.Session(
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=given.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=given.get("AWS_SESSION_TOKEN"),
        region_name=region,
    )


@contextmanager
def backend_bucket(environment: Environment, options: Mapping[str, str]) -> Iterator[Any]:
    """A client of S3 as Pulumi's state backend has it: by the environment and by the ``options`` of the backend's URL.

    What goes wrong with it is raised as StackError. Source of the options: gocloud.dev/aws, V2ConfigFromURLParams.
    """
    variables = environment.variables
    region = options.get("region") or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = options.get("endpoint") or variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    plain = "true" in (options.get("disableSSL"), options.get("disable_https"))
    if endpoint and "://" not in endpoint:
        endpoint = f"{'http' if plain else 'https'}://{endpoint}"
    path_style = "true" in (options.get("s3ForcePathStyle"), options.get("use_path_style"))
    config = Config(s3={"addressing_style": "path"}) if path_style else None
    with _in_words(region):
        session = boto3.Session(profile_name=options.get("profile"), region_name=region)
        yield session.client("s3", endpoint_url=endpoint, config=config)


def connect_stack(pulumi: Pulumi, settings: Mapping[str, Any] | None = None) -> Clients:
    """Clients for the region of a stack: the one in its settings, else in its state, else in the environment.

    ``settings`` are a stack file's, by default the stack's own; the Pulumi ESC environments that they name count too.
    """
    if settings is None:
        file = pulumi.stack.config_file
        settings = read_yaml(file) if file.exists() else {}
    given = esc.opened(pulumi, esc.imports(settings))
    config = esc.merged(given.config, settings.get("config") or {})
    configured = config.get("aws:region")
    if configured is None and pulumi.exists():
        configured = _region_of(pulumi.state())
    return connect(pulumi.environment, configured, config, given.variables)


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
