"""files/mariadb/galera_start.py as a module: on machines it is a program by itself."""

import importlib.util
import sys
from typing import Any

from tests.programs import FILES

_spec = importlib.util.spec_from_file_location("galera_start", FILES / "mariadb/galera_start.py")
assert _spec
assert _spec.loader
galera_start: Any = importlib.util.module_from_spec(_spec)
sys.modules["galera_start"] = galera_start
_spec.loader.exec_module(galera_start)
