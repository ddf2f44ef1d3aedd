"""Builds the Terraform AWS provider behind Pulumi's bridge, with no more of it than the types that the bridge maps.

The provider is 260 service packages, each on top of an SDK of its own, and
compiling them all takes most of a quarter of an hour. So the build is done on
a copy of the provider's module in which two generated files are shortened:
the list of service packages, and the list of API clients. What stays follows
from the Terraform names in aws-bridge/provider/provider.go.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from toolchain import golang, gomodule, venv
from toolchain.gomodule import unexpected
from toolchain.paths import ROOT, digest
from toolchain.progress import ToolchainError, run, say
from toolchain.store import entry, obtain

BRIDGE = ROOT / "toolchain" / "aws-bridge"
FLAGS = (*gomodule.FLAGS, "-ldflags", f"-s -w -X aws-bridge/provider.version={venv.locked_version('pulumi-aws')}")

MODULE = "github.com/hashicorp/terraform-provider-aws"
#: What the build needs of the provider's module.
PARTS = ("go.mod", "go.sum", "internal", "names", "version", "xpprovider")
SERVICES = Path("internal/service")
PACKAGES_LIST = Path("internal/provider/sdkv2/service_packages_gen.go")
CLIENTS_LIST = Path("internal/conns/awsclient_gen.go")
#: The client that the list's own package calls, whatever the service packages need.
OWN_CLIENT = "S3"


def build(go: Callable[[], str]) -> Path:
    """The folder with the bridged provider and the schema that it serves from beside itself."""
    key = digest(BRIDGE, Path(__file__), Path(gomodule.__file__), repr(FLAGS))
    if not entry("aws", key).is_dir():
        say("aws", "building the Terraform AWS provider behind Pulumi's bridge; the first time takes some minutes")
    return obtain("aws", key, lambda part: _build(part, go()))


def _build(part: Path, go: str) -> None:
    program = part / "pulumi-resource-aws"
    env = {**golang.environment(go), "GOGC": "400"}
    module = gomodule.download("aws", MODULE, go, BRIDGE, env)
    with tempfile.TemporaryDirectory(prefix=".aws-build-", dir=part.parent) as scratch:
        bridge, provider = Path(scratch) / "bridge", Path(scratch) / "provider"
        shutil.copytree(BRIDGE, bridge)
        gomodule.link_tree(module, provider, PARTS)
        kept = reduce(provider, mapped_types((bridge / "provider" / "provider.go").read_text()))
        say("aws", f"of the provider's service packages: {', '.join(sorted(kept))}")
        replace = f"-replace={MODULE}={provider}"
        run("aws", "naming the reduced module", [go, "mod", "edit", replace], cwd=bridge, env=env)
        argv = [go, "build", "-mod=mod", *FLAGS, "-o", str(program), "."]
        run("aws", "building the provider", argv, cwd=bridge, env=env)
    write_schema = [str(program), "schema", "--out", str(part), "--skip-docs", "--skip-examples"]
    run("aws", "writing the provider's schema", write_schema, cwd=part)
    for name in ("schema.json", "bridge-metadata.json"):
        if not (part / name).exists():
            raise ToolchainError(f"aws: the provider wrote no {name}")


def mapped_types(source: str) -> set[str]:
    """The Terraform names in the maps of provider.go."""
    return set(re.findall(r'"(aws_\w+)":', source))


def reduce(provider: Path, types: Iterable[str]) -> set[str]:
    """Shortens both lists in the copy to what `types` need; the service packages that stay."""
    packages = service_packages(provider, types)
    gomodule.rewrite(provider, PACKAGES_LIST, lambda text: keep_packages(text, packages))
    clients = {OWN_CLIENT, *called_clients(provider, packages)}
    gomodule.rewrite(provider, CLIENTS_LIST, lambda text: keep_clients(text, clients))
    return packages


def service_packages(provider: Path, types: Iterable[str]) -> set[str]:
    """The service packages that register the resources and data sources of these names."""
    missing = set(types)
    packages = set()
    for file in sorted((provider / SERVICES).glob("*/service_package_gen.go")):
        registered = set(re.findall(r'^\s*TypeName:\s+"(aws_\w+)",$', file.read_text(), re.MULTILINE))
        if registered & set(types):
            packages.add(file.parent.name)
            missing -= registered
    if missing:
        raise unexpected(SERVICES / "*/service_package_gen.go", f"none registers {', '.join(sorted(missing))}")
    return packages


def called_clients(provider: Path, packages: Iterable[str]) -> set[str]:
    """The API clients that these service packages, and what they import of each other, get from the connection."""
    clients: set[str] = set()
    queue, seen = list(packages), set[str]()
    while queue:
        package = queue.pop()
        if package in seen:
            continue
        seen.add(package)
        for file in (provider / SERVICES / package).glob("*.go"):
            if not file.name.endswith("_test.go"):
                text = file.read_text()
                clients.update(re.findall(r"\.(\w+)Client\(ctx", text))
                queue += re.findall(rf'"{re.escape(MODULE)}/{SERVICES}/(\w+)"', text)
    return clients


def keep_packages(text: str, packages: set[str]) -> str:
    """The list of service packages, with only these imported and named."""
    imported = re.compile(rf'^\t"{re.escape(MODULE)}/{SERVICES}/(\w+)"\n', re.MULTILINE)
    named = re.compile(r"^\t\t(\w+)\.ServicePackage\(ctx\),\n", re.MULTILINE)
    for pattern in (imported, named):
        absent = packages - set(pattern.findall(text))
        if absent:
            raise unexpected(PACKAGES_LIST, f"does not name {', '.join(sorted(absent))}")
        text = pattern.sub(lambda line: line.group() if line.group(1) in packages else "", text)
    return text


def keep_clients(text: str, clients: set[str]) -> str:
    """The list of API clients, with only these methods, and the imports that they need."""
    method = re.compile(r"^func \(c \*AWSClient\) (\w+)Client\(ctx .*?^}\n", re.MULTILINE | re.DOTALL)
    # The names that were found in the packages are not all clients of this list: that one is missing, Go will say.
    if OWN_CLIENT not in method.findall(text):
        raise unexpected(CLIENTS_LIST, f"has no {OWN_CLIENT}Client")
    text = method.sub(lambda function: function.group() if function.group(1) in clients else "", text)
    body = text.partition("\n)\n")[2]
    imported = re.compile(r'^\t(?:(\w+) )?"github\.com/aws/aws-sdk-go-v2/service/([\w/]+)"\n', re.MULTILINE)
    return imported.sub(
        lambda line: line.group() if f"*{line.group(1) or line.group(2).rsplit('/')[-1]}.Client" in body else "", text
    )
