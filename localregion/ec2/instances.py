"""Instances: their states follow the machines, and their interfaces outlive them."""

import threading
from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, instances
from moto.ec2.models.instances import Instance, InstanceState
from moto.ec2.models.subnets import Subnet
from moto.ec2.responses.general import General
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import Base64EncodedString, random_iam_instance_profile_association_id

from localregion.ec2.account import LOCK, set_state
from localregion.ec2.correction import Correction, refuse, whole
from localregion.ec2.hypervisor import Hypervisor
from localregion.ec2.interfaces import SubnetFullError

_CONSOLE_BYTES = 65536  # GetConsoleOutput returns at most 64 KB
_run = EC2Backend.run_instances
_replace_profile = EC2Backend.replace_iam_instance_profile_association
_respond_to_run = InstanceResponse.run_instances
_start, _stop, _terminate = Instance.start, Instance.stop, Instance.terminate


class NoRoomError(EC2ClientError):  # type: ignore[misc]
    """A subnet has addresses for ``fit`` instances, and not for all."""

    def __init__(self, subnet_id: str, fit: int) -> None:
        message = f"There are not enough free addresses in subnet '{subnet_id}' to satisfy the requested number of "
        message += "instances."
        super().__init__("InsufficientFreeAddressesInSubnet", message)
        self.fit = fit


def corrections(hypervisor: Hypervisor) -> list[Correction]:
    def boot(instance: Any) -> None:
        try:
            hypervisor.boot(instance.id)
        except Exception as error:
            set_state(instance, "stopped")
            instance._reason = f"Server.InternalError: {error}"
            raise
        set_state(instance, "running")

    def run_instances(self: Any, image_id: str, count: int, *args: Any, **kwargs: Any) -> Any:
        _check_request(self, image_id, count, kwargs)
        with whole(self):
            reservations = set(self.reservations)
            try:
                reservation = _run(self, image_id, count, *args, **kwargs)
            except SubnetFullError as full:
                (new,) = self.reservations.keys() - reservations
                raise NoRoomError(full.subnet_id, len(self.reservations[new].instances)) from full
            for instance in reservation.instances:
                set_state(instance, "pending")
                instance._placement.zone = instance.nics[0].subnet.availability_zone
        for instance in reservation.instances:
            _later(lambda instance=instance: boot(instance))  # type: ignore[misc]
        return reservation

    def start(self: Any) -> Any:
        if self._state.name not in {"stopped", "running"}:
            refuse(
                "IncorrectInstanceState",
                f"The instance '{self.id}' is not in a state from which it can be started.",
            )
        if self._state.name == "running":
            return InstanceState("running", 16)
        previous = _start(self)
        set_state(self, "pending")
        _later(lambda: boot(self))
        return previous

    def stop(self: Any) -> Any:
        if self._state.name in {"terminated", "shutting-down"}:
            refuse(
                "IncorrectInstanceState", f"This instance '{self.id}' is not in a state from which it can be stopped."
            )
        if self._state.name == "stopped":
            return InstanceState("stopped", 80)
        previous = _stop(self)
        set_state(self, "stopping")

        def work() -> None:
            hypervisor.shutdown(self.id)
            set_state(self, "stopped")

        _later(work)
        return previous

    def terminate(self: Any) -> Any:
        if self._state.name in {"terminated", "shutting-down"}:
            return InstanceState(self._state.name, self._state.code)
        interfaces = list(self.nics.values())
        doomed = [eni for eni in interfaces if eni.delete_on_termination]
        for eni in doomed:
            eni.delete_on_termination = False  # moto would delete it before the machine is gone
        previous = _terminate(self)
        set_state(self, "shutting-down")

        def work() -> None:
            hypervisor.delete(self.id)
            with LOCK:
                for eni in interfaces:
                    if eni.instance is self:
                        self.detach_eni(eni)
                for eni in doomed:
                    self.ec2_backend.delete_network_interface(eni.id)
                set_state(self, "terminated")
                hypervisor.changed()

        _later(work)
        return previous

    def reboot(self: Any) -> None:
        hypervisor.reboot(self.id)

    def get_console_output(self: Any) -> Any:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        text = hypervisor.console(instance.id)[-_CONSOLE_BYTES:]
        return ActionResult(
            {
                "InstanceId": instance.id,
                "Timestamp": utcnow(),
                "Output": Base64EncodedString.from_raw_string(text),
            }
        )

    return [
        Correction(EC2Backend, "run_instances", run_instances),
        Correction(EC2Backend, "replace_iam_instance_profile_association", replace_profile),
        Correction(InstanceResponse, "run_instances", respond_to_run_instances),
        # moto takes the addresses of other interfaces for free, those of terminated instances for used, and without a
        # subnet any. Without an address the instance's interface gets a free one, and with one it is checked there.
        Correction(Subnet, "get_available_subnet_ip", no_address),
        Correction(Subnet, "request_ip", no_address),
        Correction(instances, "random_private_ip", no_address),
        Correction(Instance, "start", start),
        Correction(Instance, "stop", stop),
        Correction(Instance, "terminate", terminate),
        Correction(Instance, "reboot", reboot),
        Correction(General, "get_console_output", get_console_output),
        Correction(Instance, "private_ip", _of_first_interface("private_ip_address")),
        Correction(Instance, "private_ip_address", _of_first_interface("private_ip_address")),
        Correction(Instance, "public_ip", _of_first_interface("public_ip")),
        Correction(Instance, "public_ip_address", _of_first_interface("public_ip")),
    ]


def no_address(*_: Any, **_named: Any) -> None:
    return None


def replace_profile(self: Any, *args: Any, **kwargs: Any) -> Any:
    """By a new association; moto keeps the old one's id, and leaves the instance with the old profile."""
    association = _replace_profile(self, *args, **kwargs)
    association.association_id = random_iam_instance_profile_association_id()
    profile = {"Arn": association.iam_instance_profile.arn, "Id": association.association_id}
    self.modify_instance_attribute(association.instance_id, "iam_instance_profile", profile)
    return association


def respond_to_run_instances(self: Any) -> ActionResult:
    """With as many instances as fit between MinCount and MaxCount, of which moto takes the former; with protection
    against termination, which it knows only as something that is switched on later."""
    least, most = (int(self._get_param(name, 1)) for name in ("MinCount", "MaxCount"))
    if not 1 <= least <= most:
        refuse("InvalidParameterValue", f"invalid values for parameters MinCount and MaxCount: {least} and {most}")
    self.params["MinCount"] = most
    try:
        answer = _respond_to_run(self)
    except NoRoomError as full:
        if full.fit < least:
            raise
        self.params["MinCount"] = full.fit
        answer = _respond_to_run(self)
    for instance in answer.result.instances:
        instance.disable_api_termination = bool(self._get_param("DisableApiTermination"))
    return answer


def _check_request(ec2: Any, image_id: str, count: int, arguments: dict[str, Any]) -> None:
    if not ec2.describe_images(ami_ids=[image_id]):
        refuse("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    if arguments.get("key_name") and arguments["key_name"] not in ec2.key_pairs:
        refuse("InvalidKeyPair.NotFound", f"The key pair '{arguments['key_name']}' does not exist")
    for nic in arguments.get("nics") or []:
        if nic.get("NetworkInterfaceId"):
            eni = ec2.get_network_interface(nic["NetworkInterfaceId"])
            if eni.instance is not None or count > 1:
                refuse("InvalidNetworkInterface.InUse", f"Interface: [{eni.id}] in use.")


def _later(work: Callable[[], None]) -> None:
    """What takes time happens after the answer, as on AWS."""
    threading.Thread(target=work, daemon=True).start()


def _of_first_interface(attribute: str) -> property:
    """A terminated instance has no interface any more; moto looks for it all the same."""
    return property(lambda self: getattr(self.nics[0], attribute) if 0 in self.nics else None)
