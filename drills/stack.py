"""The stack under test, as its outputs and the region describe it."""

import subprocess
import time
from dataclasses import dataclass
from typing import Any

from localregion.client import Region, RegionError, wait_until
from stackctl.project import StackError
from stackctl.pulumi import stack_outputs


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
    password: str = ""
    schema: str = ""
    #: None: the stack has no Mycat.
    mycat_port: int | None = None
    mycat_user: str = ""
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

    def whole(self, region: Region) -> bool:
        """Every machine has power, every database is synced in one cluster, every balancer takes part in VRRP."""
        nodes = self.of_role("mysql")
        query = "SELECT variable_value FROM information_schema.global_status WHERE variable_name"
        try:
            for node in nodes:
                sql = f"{query} = 'wsrep_cluster_size'; {query} = 'wsrep_local_state_comment'"
                status = region.exec(node["instanceId"], ["mariadb", "-N", "-e", sql], timeout=10).stdout.split()
                if status != [str(len(nodes)), "Synced"]:
                    return False
            for balancer in self.of_role("lb"):
                for unit in ("haproxy", "keepalived"):
                    region.exec(balancer["instanceId"], ["systemctl", "is-active", "--quiet", unit], timeout=10)
        except (RegionError, subprocess.TimeoutExpired):
            return False
        return True

    def wait_whole(self, region: Region, seconds: float = 180) -> float:
        """Wait until everything is back; returns how long it took."""
        started = time.monotonic()
        wait_until(lambda: self.whole(region), "the stack to be whole again", seconds, pause=0.5)
        return time.monotonic() - started
