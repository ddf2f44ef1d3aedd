"""A file on a machine that is never half-written and never replaces a working one by a broken one."""

import shlex

import pulumi

from constants import LIBRARY

INSTALL_FILE = f"{LIBRARY}/install-file"
#: A validation: refuses a staged program, or a file of variables, that bash cannot read.
BASH_SYNTAX = 'bash -n "$STAGED"'
#: A validation: refuses a staged program that Python cannot read.
PYTHON_SYNTAX = 'python3 -c "import ast, sys; ast.parse(open(sys.argv[1]).read())" "$STAGED"'


class ConfigFile(pulumi.ComponentResource):
    """A file that ``Machine.file`` has put on a machine; its one child is the command that installs it."""

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:config_file:ConfigFile", name, {}, opts)


def install_command(path: str, mode: str, owner: str, *, validate: str, apply: str, gate: str) -> str:
    """The command line that installs what it reads from stdin as ``path``; files/machine/install-file has the rest."""
    argv = [INSTALL_FILE, path, mode, owner]
    for option, command in (("--validate", validate), ("--apply", apply), ("--gate", gate)):
        if command:
            argv += [option, command]
    return shlex.join(argv)
