"""`python -m tests.fakemycat PREFIX HOME`, in place of mycat-run: reads HOME/conf and answers as Mycat does.

What goes wrong is asked of it by files beside HOME/conf: ``busy`` (a reload of all is refused for as long as it is
there), ``failing`` (every reload fails), ``forgetful`` (a reload succeeds and the schemas are gone).
"""

import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.fakemysql import FakeMysql, Rows, SqlError


class FakeMycat:
    def __init__(self, home: Path) -> None:
        self._home = home
        self._load()
        self._server = FakeMysql(self._password, self._answer, self._host, self._ports[0])
        self._manager = FakeMysql(self._password, self._manage, self._host, self._ports[1])

    def _load(self) -> None:
        server = ET.parse(self._home / "conf/server.xml").getroot()
        schema = ET.parse(self._home / "conf/schema.xml").getroot()
        known = {node.get("name") for node in schema.findall("dataNode")}
        for item in schema.findall("schema"):
            if item.get("dataNode") not in known:
                raise ValueError(f"dataNode '{item.get('dataNode')}' is not found!")
        system = {item.get("name"): item.text or "" for item in server.findall("./system/property")}
        self._host = system["bindIp"]
        self._ports = int(system["serverPort"]), int(system["managerPort"])
        self._password = server.findtext("./user[@name='health']/property[@name='password']") or ""
        self._schemas = [item.get("name", "") for item in schema.findall("schema")]

    def serve(self) -> None:
        with self._server, self._manager:
            threading.Event().wait()

    def _answer(self, statement: str) -> Rows:
        return self._schemas if statement == "SHOW DATABASES" else ["1"] if statement == "SELECT 1" else []

    def _manage(self, statement: str) -> Rows:
        if not statement.startswith("reload @@config"):
            raise SqlError(1064, f"Unsupported statement {statement}")
        if statement.endswith("_all") and (self._home / "busy").exists():
            raise SqlError(3000, "The are several unfinished db transactions before executing")
        if (self._home / "failing").exists():
            raise SqlError(3000, "Reload config failure")
        self._load()
        self._server.password = self._manager.password = self._password
        if (self._home / "forgetful").exists():
            self._schemas = []
        return []


if __name__ == "__main__":
    try:
        mycat = FakeMycat(Path(sys.argv[2]))
    except Exception as error:
        sys.exit(f"startup error\nCaused by: io.mycat.config.util.ConfigException: {error}")
    mycat.serve()
