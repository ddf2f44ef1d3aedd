"""The metadata service of the region's instances: whose metadata a request gets, and what that is."""

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from werkzeug import Request, Response

from localregion import ec2, imds
from localregion.model import Eni, Layout


class MetadataService:
    """Answers each machine by the address that it asks from.

    Addresses are those that are ``in_force``: the service learns of a change when the network does, and not from the
    API's answer (EC2 API Reference, AssignPrivateIpAddresses).
    """

    def __init__(self, region: str, keyring: imds.Keyring, in_force: Callable[[], Layout]) -> None:
        self._region = region
        self._in_force = in_force
        self._ec2 = ec2.backend(region)
        self._keyring = keyring
        self._metadata = imds.Metadata()
        self.down: set[str] = set()  # a fault: ids of instances that get no answer

    def of_vpc(self, vpc_id: str) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
        """The WSGI application of a VPC's metadata address."""

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            request = Request(environ)
            eni = self._interface_at(vpc_id, request.remote_addr or "")
            if eni is None:
                return Response("", HTTPStatus.FORBIDDEN)(environ, start_response)
            instance = self._ec2.get_instance(eni.instance_id)
            if instance.metadata_options.http_endpoint != "enabled":
                return Response("", HTTPStatus.FORBIDDEN)(environ, start_response)
            if instance.id in self.down:
                time.sleep(20)
                return Response("", HTTPStatus.SERVICE_UNAVAILABLE)(environ, start_response)
            answer = self._metadata.answer(request, instance.id, lambda: self._tree(instance, eni))
            return answer(environ, start_response)

        return application

    def _interface_at(self, vpc_id: str, address: str) -> Eni | None:
        layout = self._in_force()
        subnets = {subnet.id for subnet in layout.subnets if subnet.vpc_id == vpc_id}
        attached = (eni for eni in layout.enis if eni.subnet_id in subnets and eni.instance_id)
        return next((eni for eni in attached if address in map(str, eni.addresses)), None)

    def _tree(self, instance: Any, eni: Eni) -> imds.Tree:
        association = self._ec2.iam_instance_profile_associations.get(instance.id)
        profile = None
        if association is not None:
            arn = association.iam_instance_profile.arn
            profiles = ec2.iam(self._region).instance_profiles.values()
            profile = next((p for p in profiles if p.arn == arn), None)
        key = self._ec2.key_pairs.get(instance.key_name)
        public = key.material_public.decode() if key else None
        return imds.tree(
            instance,
            eni,
            self._region,
            profile,
            lambda role: self._keyring.of_role(role, instance.id),
            public,
        )
