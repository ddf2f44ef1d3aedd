"""The program without an engine and without AWS, under Pulumi's mocks: what it would put on machines.

`python -m dry_run STACK FILE` reads a stack's settings and prints the files of every machine as JSON; `stackctl render`
is what people run. Nothing is decrypted: in the place of a secret stands its name, and of what only AWS knows what it
would be.
"""

import argparse
import asyncio
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime.settings import set_root_resource
from pulumi.runtime.stack import run_in_stack

from components.config_file import INSTALL_FILE
from settings import NAMESPACE, SettingsError
from settings.certificates import new_key
from settings.mycat import HEALTH_USER
from settings.own_files import health_passwords
from settings.secret_names import TLS_KEYS, needed_secrets

ROOT = Path(__file__).parent
#: What marks a secret among the inputs that Pulumi's mocks are given.
_SIGNATURE = "4dabf18193072939515e22adb298388d"
#: Machine, path, text.
Files = dict[str, dict[str, str]]


def run(config: Mapping[str, str], mocks: pulumi.runtime.Mocks, stack: str) -> None:
    """Run __main__.py with ``config`` (by key with its namespace). The program's own errors come through."""
    # In a thread of its own: Pulumi walks the stack for every resource, and the caller's may be deep.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_run, config, mocks, stack).result()


def _run(config: Mapping[str, str], mocks: pulumi.runtime.Mocks, stack: str) -> None:
    pulumi.runtime.set_all_config(dict(config))
    loops: list[asyncio.AbstractEventLoop] = []

    def own_loop() -> asyncio.AbstractEventLoop:
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])
        return loops[-1]

    loop = own_loop()
    pulumi.runtime.set_mocks(mocks, project=NAMESPACE, stack=stack, preview=False)
    # set_mocks makes a root stack; this run makes its own, with its own transformations.
    set_root_resource(None)  # type: ignore[arg-type]

    async def program() -> None:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__dry_run__")

    try:
        # The mocks answer in threads, each of which Pulumi would give a loop that nobody closes.
        with ThreadPoolExecutor(initializer=own_loop) as threads:
            loop.set_default_executor(threads)
            loop.run_until_complete(run_in_stack(program))
    finally:
        for each in loops:
            each.close()
        pulumi.runtime.set_all_config({})


@dataclass
class Names(pulumi.runtime.Mocks):
    """Answers with names for what only AWS and the machines know, and keeps the commands."""

    region: str
    subnet_cidr: str
    commands: dict[str, dict[str, Any]] = field(default_factory=dict)

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        name, outputs = args.name, dict(args.inputs)
        if args.typ == "command:remote:Command":
            self.commands[name] = outputs
            outputs["stdout"] = f"<output of {name}>"
            if name.endswith("-ready"):
                outputs["stdout"] = json.dumps(
                    {"device": f"<device of {name.removesuffix('-ready')}>", "hostKey": f"<host key of {name}>"}
                )
        for computed in ("arn", "name", "allocationId"):
            outputs.setdefault(computed, f"<{computed} of {name}>")
        return f"<id of {name}>", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        match args.token:
            case "aws:index/getRegion:getRegion":
                return {"region": self.region, "id": self.region, "name": self.region}
            case "aws:index/getPartition:getPartition":
                china = self.region.startswith("cn-")
                return {
                    "partition": "aws-cn" if china else "aws",
                    "dnsSuffix": "amazonaws.com.cn" if china else "amazonaws.com",
                    "reverseDnsPrefix": "cn.com.amazonaws" if china else "com.amazonaws",
                }
            case "aws:ec2/getAmi:getAmi":
                return {"id": "<AMI>", "architecture": "x86_64"}
            case "aws:ec2/getSubnet:getSubnet":
                return {"id": args.args["id"], "cidrBlock": self.subnet_cidr, "vpcId": "<VPC>"}
            case "aws:ec2/getNetworkInterfaces:getNetworkInterfaces":
                return {"ids": [], "id": self.region}
            case "aws:ec2/getInstances:getInstances":
                return {"ids": [], "privateIps": [], "id": self.region}
        raise AssertionError(f"dry_run.py has no answer to the program's call of {args.token}")


def files(stack: str, config: Mapping[str, Any]) -> Files:
    """Every file of every machine by its path, secrets as <secret:NAME>. ``config`` is as in a stack's file.

    What a command gets on standard input otherwise is at stdin/COMMAND, a set of files at stdin/COMMAND/FILE. Raises
    SettingsError.
    """
    sections = {key.removeprefix(f"{NAMESPACE}:"): value for key, value in config.items() if NAMESPACE in key}
    completed = _complete(sections)
    secrets = _secrets(completed)
    sections = completed | {"secrets": secrets}
    network = sections.get("network")
    mocks = Names(
        region=config.get("aws:region") or os.environ.get("AWS_REGION") or "<region>",
        subnet_cidr=network.get("subnetCidr", "") if isinstance(network, dict) else "",
    )
    others = {key: value for key, value in config.items() if NAMESPACE not in key}
    run(_texts({**others, **{f"{NAMESPACE}:{key}": value for key, value in sections.items()}}), mocks, stack)

    machines = {str(machine["address"]): str(machine["name"]) for machine in sections["machines"]}
    own = _own_files(sections)
    found: Files = {name: {} for name in machines.values()}
    for name, inputs in mocks.commands.items():
        stdin = _plain(inputs.get("stdin"))
        if stdin is None:
            continue
        host = _plain(inputs["connection"])["host"]
        machine = machines.get(host, host)
        texts = found.setdefault(machine, {})
        for path, text in _files(name.removeprefix(f"{machine}-"), inputs["create"], stdin).items():
            # Nobody but their owner knows where in the user's own files passwords are.
            is_own = own and path.startswith("stdin/mycat-configuration/") and (own / Path(path).name).exists()
            texts[path] = f"<as it stands in {own}>\n" if is_own else _masked(text, secrets)
    return {machine: dict(sorted(texts.items())) for machine, texts in found.items() if texts}


def _secrets(sections: Mapping[str, Any]) -> dict[str, str]:
    """A word for each secret that the settings take for one, and that nothing else in a file is."""
    given = sections.get("secrets")
    names = [*needed_secrets(sections), *(given if isinstance(given, dict) and set(given) != {"secure"} else ())]
    # Letters and digits, so that it needs no quotes anywhere; eight of them, which is all that VRRPv2 takes.
    words = {name: f"Hidden{index:02x}" for index, name in enumerate(dict.fromkeys(names))}
    if own := _own_files(sections):
        # The user's server.xml has this one, and the settings are held to it.
        words[HEALTH_USER] = next(iter(health_passwords(own)), words[HEALTH_USER])
    for name in TLS_KEYS & words.keys():
        words[name] = new_key()  # certificates are made with it
    return words


def _own_files(sections: Mapping[str, Any]) -> Path | None:
    """Where the user's own files for Mycat are."""
    mycat = sections.get("mycat")
    return Path(mycat["files"]).expanduser() if isinstance(mycat, dict) and mycat.get("files") else None


def _complete(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with what their owner adds, and without what is only on the owner's computer."""
    completed = {
        key: {name: value for name, value in section.items() if name != "archive"}
        if isinstance(section, dict)
        else section
        for key, section in sections.items()
    }
    if isinstance(database := completed.get("database"), dict) and isinstance(tls := database.get("tls"), dict):
        own = {"certificate", "authority"}
        database["tls"] = {name: value for name, value in tls.items() if name not in own}
    for key, missing in (("access", {"sshPublicKey": "ssh-ed25519 AAAA"}), ("mycat", {"sha256": "0" * 64})):
        section = completed.get(key)
        if isinstance(section, dict) and ("url" in section or key == "access"):
            completed[key] = missing | section
    return completed


def _texts(config: Mapping[str, Any]) -> dict[str, str]:
    """As Pulumi hands them to a program."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    """The value of an input, also if it is a secret."""
    return value["value"] if isinstance(value, dict) and _SIGNATURE in value else value


def _files(command: str, create: str, stdin: str) -> dict[str, str]:
    argv = shlex.split(create)
    if INSTALL_FILE in argv:
        return {argv[argv.index(INSTALL_FILE) + 1].lstrip("/"): stdin}
    try:
        content = json.loads(stdin)
    except ValueError:
        return {f"stdin/{command}": stdin}
    return {f"stdin/{command}/{name}": text for name, text in content.items()}


def _masked(text: str, secrets: Mapping[str, str]) -> str:
    for name, word in secrets.items():
        text = text.replace(word.strip(), f"<secret:{name}>")
    # Made with a key that is another one each time.
    return re.sub(r"-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----", "<certificate>", text, flags=re.DOTALL)


def main() -> int:
    """Exit code 1: the settings are wrong; standard error says what."""
    parser = argparse.ArgumentParser(prog="python -m dry_run", description=__doc__)
    parser.add_argument("stack", help="the stack's name")
    parser.add_argument("file", type=Path, help="its settings, as in stacks/")
    arguments = parser.parse_args()
    config = (yaml.safe_load(arguments.file.read_text()) or {}).get("config") or {}
    try:
        sys.stdout.write(json.dumps(files(arguments.stack, config)))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
