"""Temporary."""

from dataclasses import dataclass

import pulumi

from components.machine import Machine
from settings import Machine as MachineSettings
from settings import Settings


@dataclass
class HealthArgs:
    settings: Settings
    machine: Machine
    machine_settings: MachineSettings


class Health(pulumi.ComponentResource):
    def __init__(self, name: str, args: HealthArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:health:Health", name, {}, opts)
        self.register_outputs({})
