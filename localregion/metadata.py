"""The metadata service of the region's instances: whose metadata a request gets, and what that is."""

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from werkzeug import Request, Response

from localregion import ec2, imds


class MetadataService:
    """Answers each machine by the address that it asks from."""

    def __init__(self, region: str, keyring: imds.Keyring) -> None:
        self._region = region
        self._ec2 = ec2.backend(region)
        self._keyring = keyring
        self._metadata = imds.Metadata()
        self.down: set[str] = set()  # a fault: ids of instances that get no answer

    def of_vpc(self, vpc_id: str) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
        """The WSGI application of a VPC's metadata address."""

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            request = Request(environ)
            instance = self._instance_at(vpc_id, request.remote_addr or "")
            if instance is None or instance.metadata_options.http_endpoint != "enabled":
                return Response("", HTTPStatus.FORBIDDEN)(environ, start_response)
            if instance.id in self.down:
                time.sleep(20)
                return Response("", HTTPStatus.SERVICE_UNAVAILABLE)(environ, start_response)
            answer = self._metadata.answer(request, instance.id, lambda: self._tree(instance))
            return answer(environ, start_response)

        return application

    def _instance_at(self, vpc_id: str, address: str) -> Any | None:
        for eni in list(self._ec2.enis.values()):
            held = {a["PrivateIpAddress"] for a in eni.private_ip_addresses}
            if eni.vpc_id == vpc_id and eni.instance is not None and address in held:
                return eni.instance
        return None

    def _tree(self, instance: Any) -> imds.Tree:
        from moto.iam.models import iam_backends

        association = self._ec2.iam_instance_profile_associations.get(instance.id)
        profile = None
        if association is not None:
            arn = association.iam_instance_profile.arn
            profiles = iam_backends[ec2.ACCOUNT]["aws"].instance_profiles.values()
            profile = next((p for p in profiles if p.arn == arn), None)
        key = self._ec2.key_pairs.get(instance.key_name)
        public = key.material_public.decode() if key else None
        return imds.tree(instance, self._region, profile, lambda role: self._keyring.of_role(role, instance.id), public)
