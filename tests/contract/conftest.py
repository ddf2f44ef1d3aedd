"""Stacks of the real engine on a provider plugin: this project's stand-in, and the real one where it is installed."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi import automation

from tests.contract.sshd import Server, serving
from toolchain import plugins

REAL = plugins.home() / "plugins" / f"resource-command-v{plugins.VERSIONS['command']}" / "pulumi-resource-command"
Program = Callable[[], None]


def unexplained(said: str) -> bool:
    """The only error is that the engine has gone.

    One that ends at a resource whose properties are refused has now and then told the program so before it has printed
    why; and what an earlier program of this process has left may end a later one (pulumi/pulumi#8633).
    """
    errors = [line for line in said.splitlines() if "error:" in line and not line.endswith("failed")]
    return bool(errors) and all("Resource monitor has terminated" in line for line in errors)


def reason(run: Callable[[], object]) -> str:
    """What Pulumi says of a failure; an unexplained one is asked again. Nothing has been done by then."""
    for _ in range(5):
        with pytest.raises(automation.CommandError) as raised:
            run()
        if not unexplained(said := str(raised.value)):
            break
    return said


@dataclass
class Stack:
    """One stack of one test."""

    stack: automation.Stack
    folder: Path
    events: list[automation.EngineEvent] = field(default_factory=list)

    def up(self, program: Program, **options: Any) -> automation.UpResult:
        """An unexplained end before anything was done is tried once more."""
        self.stack.workspace.program = program
        try:
            return self._up(**options)
        except automation.CommandError as error:
            begun = [event.resource_pre_event for event in self.events if event.resource_pre_event]
            if not unexplained(str(error)) or any(event.metadata.op != automation.OpType.SAME for event in begun):
                raise
        return self._up(**options)

    def _up(self, **options: Any) -> automation.UpResult:
        self.events.clear()
        return self.stack.up(on_event=self.events.append, **options)

    def fails(self, program: Program) -> str:
        """Runs `up`, which has to fail, and returns what it said."""
        return reason(lambda: self.up(program))

    def refuses(self, program: Program) -> str:
        """Runs a preview, which has to fail, and returns what it said."""
        return reason(lambda: self.preview(program))

    def failures(self, program: Program) -> dict[str, str]:
        """Runs `up`, which has to fail, on to its end; what was said of each resource that failed, by its name."""
        with pytest.raises(automation.CommandError):
            self.up(program, continue_on_error=True)
        said: dict[str, str] = {}
        for event in self.events:
            diagnostic = event.diagnostic_event
            if diagnostic and diagnostic.urn and diagnostic.severity == "error":
                name = diagnostic.urn.rpartition("::")[2]
                said[name] = said.get(name, "") + diagnostic.message
        said.pop("contract-contract", None)  # the stack: that something has failed
        return said

    def preview(self, program: Program) -> automation.PreviewResult:
        self.stack.workspace.program = program
        return self.stack.preview()

    def changes(self, program: Program) -> dict[str, int]:
        """What `up` did, without what stayed the same."""
        self.up(program)
        (summary,) = [event.summary_event for event in self.events if event.summary_event]
        return {str(kind): count for kind, count in summary.resource_changes.items() if kind != "same"}

    def outputs(self, program: Program) -> dict[str, Any]:
        self.up(program)
        outputs: dict[str, Any] = self.state("contract-contract")["outputs"]
        return outputs

    def state(self, name: str) -> dict[str, Any]:
        """The resource in the state as it is stored, in which secrets are encrypted."""
        stored = json.loads((self.folder / "state/.pulumi/stacks/contract/contract.json").read_text())
        for resource in stored["checkpoint"]["latest"]["resources"]:
            if resource["urn"].endswith(f"::{name}"):
                return dict(resource)
        raise AssertionError(f"no resource {name} in the state")

    def messages(self) -> str:
        """Everything that the last `up` told about resources, what came and went in the status column included."""
        said = [event.diagnostic_event.message for event in self.events if event.diagnostic_event]
        return "\n".join(said)


@pytest.fixture(params=["stand-in", "real"] if REAL.exists() else ["stand-in"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    if shutil.which("pulumi") is None:
        pytest.fail("no pulumi on PATH: run `python3 -m toolchain install`, and the tests with `make test`")
    folders = [tmp_path / "bin"] if request.param == "stand-in" else []
    # A plugin on PATH comes before an installed one, so only the one that is to be tested may be there.
    folders += [
        Path(folder)
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "pulumi-resource-command").exists()
    ]
    if request.param == "stand-in":
        launcher = tmp_path / "bin" / "pulumi-resource-command"
        launcher.parent.mkdir()
        launcher.write_text(plugins.stand_in_launcher(Path(sys.prefix)))
        launcher.chmod(0o755)
    for program in ("pulumi", "pulumi-language-python"):  # they may be in the folder that was left out
        found = shutil.which(program)
        if found and not shutil.which(program, path=os.pathsep.join(map(str, folders))):
            (tmp_path / "cli").mkdir(exist_ok=True)
            (tmp_path / "cli" / program).symlink_to(found)
            folders.append(tmp_path / "cli")
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    state = tmp_path / "state"
    state.mkdir()
    made = automation.create_stack(
        stack_name="contract",
        project_name="contract",
        program=lambda: None,
        opts=automation.LocalWorkspaceOptions(
            work_dir=str(tmp_path),
            env_vars={
                "PULUMI_AUTOMATION_API_SKIP_VERSION_CHECK": "true",
                "PULUMI_BACKEND_URL": state.as_uri(),
                "PULUMI_CONFIG_PASSPHRASE": "contract",
            },
            project_settings=automation.ProjectSettings(
                name="contract", runtime="python", backend=automation.ProjectBackend(url=state.as_uri())
            ),
        ),
    )
    # It logs to an engine that may be gone already, and does not close its event loop if that fails.
    monkeypatch.setattr(pulumi.log, "debug", lambda *_, **__: None)
    # After each `up` the automation API asks the CLI for these, half a second each; the tests look at events and state.
    monkeypatch.setattr(made, "outputs", dict)
    monkeypatch.setattr(made, "info", lambda *_: {})
    return Stack(made, tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The folder in which the server's commands run."""
    folder = tmp_path / "host"
    folder.mkdir()
    return folder


@pytest.fixture
def server(host: Path) -> Iterator[Server]:
    with serving(host) as running:
        yield running


def resource(kind: str, name: str, properties: dict[str, Any]) -> pulumi.CustomResource:
    """A resource as any program could register it, past the checks of the Python SDK's classes."""

    class Raw(pulumi.CustomResource):
        def _translate_property(self, prop: str) -> str:
            return prop

        def translate_input_property(self, prop: str) -> str:
            return prop

    return Raw(kind, name, properties)


def log(path: Path) -> list[str]:
    """The lines that commands have appended to a file, none if none ran."""
    return path.read_text().splitlines() if path.exists() else []


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
