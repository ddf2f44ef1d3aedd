"""The stack under test, as its outputs and the region describe it."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from localregion.client import Region, RegionError
from stackctl import diagnosis, reports
from stackctl.project import StackError
from stackctl.pulumi import stack_outputs
from stackctl.reports import Holding
from stackctl.status import REPORT, report_command


@dataclass(frozen=True)
class Stack:
    name: str
    vip: str
    port: int
    statistics_url: str
    statistics_user: str
    machines: tuple[dict[str, Any], ...]
    #: Empty: the databases are not the stack's, nor are their logins.
    user: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    #: None: the stack has no Mycat.
    mycat_port: int | None = None
    mycat_user: str = ""
    mycat_password: str = field(default="", repr=False)
    mycat_schema: str = ""

    @classmethod
    def read(cls, name: str) -> "Stack":
        """Raises RuntimeError with Pulumi's own error if the stack is not up."""
        try:
            outputs = stack_outputs(name)
        except StackError as error:
            raise RuntimeError(f"stack {name} is not up: {error}; run `make up`") from None
        if "machines" not in outputs:
            raise RuntimeError(f"stack {name} is not up: it has no outputs; run `make up`")
        return cls(
            name=name,
            vip=outputs["vip"],
            port=outputs["mysqlPort"],
            statistics_url=outputs["statisticsUrl"],
            statistics_user=outputs["statisticsUser"],
            machines=tuple(outputs["machines"]),
            user=outputs.get("databaseUser", ""),
            password=outputs.get("databasePassword", ""),
            schema=outputs.get("databaseSchema", ""),
            mycat_port=outputs.get("mycatPort"),
            mycat_user=outputs.get("mycatUser", ""),
            mycat_password=outputs.get("mycatPassword", ""),
            mycat_schema=outputs.get("mycatSchema", ""),
        )

    def of_role(self, role: str) -> list[dict[str, Any]]:
        return [machine for machine in self.machines if role in machine["roles"]]

    def machine(self, name: str) -> dict[str, Any]:
        return next(machine for machine in self.machines if machine["name"] == name)

    def holder(self, region: Region) -> str:
        """The name of the machine whose interface has the VIP, as the EC2 API says."""
        by_instance = {m["id"]: m["addresses"] for m in region.machines()}
        for machine in self.machines:
            if self.vip in by_instance.get(machine["instanceId"], ()):
                return str(machine["name"])
        raise RuntimeError(f"no machine of the stack holds {self.vip}")

    def problems(self, region: Region) -> list[str]:
        """What is not whole, by what `stackctl status` would say of the machines; empty if all is well."""
        with ThreadPoolExecutor(len(self.machines)) as pool:
            found = list(pool.map(lambda machine: self._report(region, machine), self.machines))
        try:
            holding = Holding(self.holder(region), "", None)
        except RuntimeError as error:
            holding = Holding(None, None, str(error))
        wrong = diagnosis.status(self.name, self.vip, holding, found, datetime.now(UTC)).problems
        return [f"{problem.machine or 'the stack'}: {problem.what}" for problem in wrong]

    def _report(self, region: Region, machine: dict[str, Any]) -> reports.Machine:
        name, address, roles = machine["name"], machine["address"], tuple(machine["roles"])
        argv = report_command(roles, address, self.vip)
        try:
            said = region.exec(machine["instanceId"], argv, input=REPORT.read_text(encoding="utf-8"), timeout=20)
        except (RegionError, subprocess.TimeoutExpired) as error:
            return reports.Machine(name, address, roles, str(error))
        return reports.machine(name, address, roles, said.stdout)

    def restore(self, region: Region) -> None:
        """End the region's faults, and give every machine its power."""
        region.clear_faults()
        powered = {machine["id"] for machine in region.machines() if machine["powered"]}
        for machine in self.machines:
            if machine["instanceId"] not in powered:
                region.power_on(machine["instanceId"])

    def wait_whole(self, region: Region, seconds: float = 300) -> float:
        """Wait until everything is back; returns how long it took. Raises TimeoutError with what is missing."""
        started = time.monotonic()
        while problems := self.problems(region):
            if time.monotonic() > started + seconds:
                raise TimeoutError(f"stack {self.name} is not whole after {seconds:g} s: {'; '.join(problems)}")
            time.sleep(0.5)
        return time.monotonic() - started
