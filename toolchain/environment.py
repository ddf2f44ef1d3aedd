"""The environment that the project's commands run in: what is on PATH, and where Pulumi keeps its state."""

import os
import secrets

from toolchain import plugins, venv
from toolchain.paths import BIN, LOCAL, ROOT
from toolchain.progress import ToolchainError
from toolchain.store import use


def _passphrase() -> str:
    """The file with the passphrase of the stacks' secrets, generated once, readable by its owner only."""
    file = LOCAL / "passphrase"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return str(file)


def environment() -> dict[str, str]:
    """This process's environment plus the toolchain's. State is kept in the work tree unless it names a backend."""
    folder = venv.path()
    if not (folder / venv.DONE).exists():
        raise ToolchainError("the Python environment is not there: run `python3 -m toolchain install`")
    venv.link(folder)
    LOCAL.mkdir(mode=0o700, exist_ok=True)
    for link in BIN.glob("*"):
        if link.is_symlink():  # to a tool in the cache, which removes what is not used
            use(link.resolve().parent)
    state = LOCAL / "state"
    state.mkdir(exist_ok=True)
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([str(folder / "bin"), str(BIN), variables.get("PATH", os.defpath)])
    variables["VIRTUAL_ENV"] = str(folder)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    variables["PULUMI_HOME"] = str(plugins.home())
    # What is set is the user's choice; an empty passphrase is one, an empty address is not.
    if not variables.get("PULUMI_BACKEND_URL"):
        variables["PULUMI_BACKEND_URL"] = state.as_uri()
    if not variables.keys() & {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"}:
        variables["PULUMI_CONFIG_PASSPHRASE_FILE"] = _passphrase()
    variables["PULUMI_SKIP_UPDATE_CHECK"] = "true"
    variables.pop("PYTHONHOME", None)
    # Without bytecode each of the many Python programs, Pulumi's among them, compiles all that it imports again.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables
